package artifact

import (
	"errors"
	"fmt"
	"io"
	"path"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
	"github.com/lintelrun/lintel/portable/urns"
)

const (
	// maxEmptyChunks ends a stream that sends nothing for ever.
	maxEmptyChunks = 1000
	// sumOfNothing is the SHA-256 of an empty file.
	sumOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// ReverseArtifactRetrievalService fetches all artifacts of the session that the
// client names in its first message. Once that has succeeded, another stream of
// the session finds nothing left to do; after a failure it starts anew.
func (s *Service) ReverseArtifactRetrievalService(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer) error {
	// The TypeScript client can't stand a reply of trailers only.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return status.Error(codes.InvalidArgument, "staging: the first message must carry the staging token")
	}
	if err != nil {
		return err
	}
	sess := s.session(first.GetStagingToken())
	if sess == nil {
		return status.Errorf(codes.NotFound, "staging: unknown staging token %s: prepare the job again", clip(first.GetStagingToken()))
	}
	if err := sess.acquire(stream.Context()); err != nil {
		return rpcstatus.Of(err)
	}
	defer sess.release()
	defer sess.touch()
	if sess.isDone() {
		return nil
	}
	st := staging{service: s, stream: stream, deps: map[string][]*pipepb.ArtifactInformation{}}
	if err := st.all(sess); err != nil {
		s.drop(st.held)
		return rpcstatus.Of(err)
	}
	if !sess.finish(st.deps, st.held) {
		s.drop(st.held)
		return status.Error(codes.NotFound, "staging: the job has been removed meanwhile")
	}
	return nil
}

// staging is one attempt to fetch a session's artifacts. The protocol has no
// request ids, so one request is outstanding at a time.
type staging struct {
	service *Service
	stream  jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer
	deps    map[string][]*pipepb.ArtifactInformation
	held    []string
	count   int
	bytes   int64
}

func (st *staging) all(sess *session) error {
	for _, env := range sess.environments {
		resolved, err := st.resolve(sess.deps[env])
		if err != nil {
			return fmt.Errorf("staging environment %s: %w", clip(env), err)
		}
		names := map[string]string{} // staged name to hash
		deps := make([]*pipepb.ArtifactInformation, 0, len(resolved))
		for _, a := range resolved {
			dep, err := st.one(a, names)
			if err != nil {
				return fmt.Errorf("staging environment %s: %w", clip(env), err)
			}
			deps = append(deps, dep)
		}
		st.deps[env] = deps
	}
	return nil
}

// resolve asks the client to replace references such as deferred ones by what can be fetched.
func (st *staging) resolve(artifacts []*pipepb.ArtifactInformation) ([]*pipepb.ArtifactInformation, error) {
	err := st.stream.Send(&jobpb.ArtifactRequestWrapper{Request: &jobpb.ArtifactRequestWrapper_ResolveArtifact{
		ResolveArtifact: &jobpb.ResolveArtifactsRequest{Artifacts: artifacts, PreferredUrns: []string{urns.ArtifactFile}},
	}})
	if err != nil {
		return nil, err
	}
	in, err := st.recv("ResolveArtifacts")
	if err != nil {
		return nil, err
	}
	r, ok := in.GetResponse().(*jobpb.ArtifactResponseWrapper_ResolveArtifactResponse)
	if !ok {
		return nil, fault.New(fault.Invalid, "the client answered ResolveArtifacts with %T", in.GetResponse())
	}
	resolved := r.ResolveArtifactResponse.GetReplacements()
	if st.count += len(resolved); st.count > st.service.cfg.MaxArtifacts {
		return nil, rpcstatus.Errorf(codes.ResourceExhausted, "the job has more than %d artifacts", st.service.cfg.MaxArtifacts)
	}
	return resolved, nil
}

// one brings an artifact into the store and returns what describes it there;
// kinds that a harness resolves by itself are returned as they are.
func (st *staging) one(a *pipepb.ArtifactInformation, names map[string]string) (*pipepb.ArtifactInformation, error) {
	name, err := stagedName(a)
	if err != nil {
		return nil, err
	}
	switch a.GetTypeUrn() {
	case urns.ArtifactPyPI, urns.ArtifactMaven, urns.ArtifactDeferred:
		return a, nil
	}
	want, base, err := announced(a)
	if err != nil {
		return nil, err
	}
	sum, err := st.content(a, want)
	if err != nil {
		return nil, err
	}
	if other, dup := names[name]; dup && name != "" && other != sum {
		return nil, fault.New(fault.Invalid, "two artifacts of different content have the staged name %s", clip(name))
	}
	names[name] = sum
	if name != "" {
		base = path.Base(name)
	}
	return stored(a, sum, base)
}

// content makes sure that the store holds the artifact's bytes and returns their hash.
func (st *staging) content(a *pipepb.ArtifactInformation, want string) (sum string, err error) {
	if size, ok := st.service.store.Retain(want); ok {
		st.held = append(st.held, want)
		st.bytes += size
		return want, st.quota(a, 0)
	}
	w, err := st.service.store.Create()
	if err != nil {
		return "", err
	}
	defer w.Abort()
	switch {
	case want == sumOfNothing: // as of Go's worker with LOOPBACK: there is nothing to ask for
	case a.GetTypeUrn() == urns.ArtifactEmbedded:
		err = st.embedded(a, w)
	default:
		err = st.fetch(a, w)
	}
	if err != nil {
		return "", err
	}
	sum, err = w.Commit(want)
	if err != nil {
		return "", fmt.Errorf("artifact %s: %w", describe(a), err)
	}
	st.held = append(st.held, sum)
	return sum, nil
}

func (st *staging) embedded(a *pipepb.ArtifactInformation, w *Writer) error {
	var p pipepb.EmbeddedFilePayload
	if err := proto.Unmarshal(a.GetTypePayload(), &p); err != nil {
		return fault.New(fault.Invalid, "artifact %s: type payload is no EmbeddedFilePayload: %w", describe(a), err)
	}
	return st.write(a, w, p.GetData())
}

// fetch reads the chunks of one artifact off the stream.
func (st *staging) fetch(a *pipepb.ArtifactInformation, w *Writer) error {
	err := st.stream.Send(&jobpb.ArtifactRequestWrapper{Request: &jobpb.ArtifactRequestWrapper_GetArtifact{
		GetArtifact: &jobpb.GetArtifactRequest{Artifact: a},
	}})
	if err != nil {
		return err
	}
	empty := 0
	for {
		in, err := st.recv("GetArtifact")
		if err != nil {
			return fmt.Errorf("artifact %s: %w", describe(a), err)
		}
		if _, wrong := in.GetResponse().(*jobpb.ArtifactResponseWrapper_ResolveArtifactResponse); wrong {
			return fault.New(fault.Invalid, "artifact %s: the client answered GetArtifact with %T", describe(a), in.GetResponse())
		}
		data := in.GetGetArtifactResponse().GetData()
		if err := st.write(a, w, data); err != nil {
			return err
		}
		if in.GetIsLast() {
			return nil
		}
		if len(data) > 0 {
			empty = 0
		} else if empty++; empty > maxEmptyChunks {
			return fault.New(fault.Invalid, "artifact %s: more than %d empty chunks in a row", describe(a), maxEmptyChunks)
		}
	}
}

func (st *staging) write(a *pipepb.ArtifactInformation, w *Writer, data []byte) error {
	st.bytes += int64(len(data))
	if err := st.quota(a, w.size+int64(len(data))); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("artifact %s: %w", describe(a), err)
	}
	return nil
}

func (st *staging) quota(a *pipepb.ArtifactInformation, size int64) error {
	cfg := st.service.cfg
	switch {
	case size > cfg.MaxArtifactBytes:
		return rpcstatus.Errorf(codes.ResourceExhausted, "artifact %s is larger than the %d bytes allowed for one artifact", describe(a), cfg.MaxArtifactBytes)
	case st.bytes > cfg.MaxJobBytes:
		return rpcstatus.Errorf(codes.ResourceExhausted, "with artifact %s the job exceeds the %d bytes allowed for all its artifacts", describe(a), cfg.MaxJobBytes)
	}
	return nil
}

func (st *staging) recv(request string) (*jobpb.ArtifactResponseWrapper, error) {
	in, err := st.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Invalid, "the client closed the stream before it answered %s", request)
	}
	return in, err
}
