package artifact_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/portable/urns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is both services behind real gRPC, with clients. The store lies in a
// folder of its own inside parent, so that anything written beside it shows.
type rig struct {
	*artifact.Service
	parent    string
	staging   jobpb.ArtifactStagingServiceClient
	retrieval jobpb.ArtifactRetrievalServiceClient
}

func newRig(t testing.TB, cfg artifact.Config) *rig {
	t.Helper()
	r := &rig{parent: t.TempDir()}
	cfg.Dir = filepath.Join(r.parent, "store")
	var err error
	if r.Service, err = artifact.New(cfg); err != nil {
		t.Fatal(err)
	}
	lis := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	r.RegisterStaging(server)
	r.RegisterRetrieval(server)
	go server.Serve(lis)
	conn, err := grpc.NewClient("passthrough:///lintel.test:1",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		r.Close()
	})
	r.staging, r.retrieval = jobpb.NewArtifactStagingServiceClient(conn), jobpb.NewArtifactRetrievalServiceClient(conn)
	return r
}

func (r *rig) open(t testing.TB, environments map[string][]*pipepb.ArtifactInformation) string {
	t.Helper()
	envs := map[string]*pipepb.Environment{}
	for id, deps := range environments {
		envs[id] = &pipepb.Environment{Dependencies: deps}
	}
	token, err := r.Open(envs)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// client answers staging requests as an SDK does.
type client struct {
	// files by the path or URL in their payload.
	files map[string][]byte
	// replace answers ResolveArtifacts; nil leaves them as they are.
	replace func([]*pipepb.ArtifactInformation) []*pipepb.ArtifactInformation
	// send answers GetArtifact in another way than by files.
	send func(stream stagingStream, a *pipepb.ArtifactInformation) error
	// fetched lists the paths asked for.
	fetched []string
}

type stagingStream = jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceClient

const clientChunk = 1000

// stage offers artifacts until the server ends the stream.
func (c *client) stage(ctx context.Context, r *rig, token string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.staging.ReverseArtifactRetrievalService(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: token}); err != nil {
		return err
	}
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.answer(stream, in); err != nil && !errors.Is(err, io.EOF) { // the reason comes with Recv
			return err
		}
	}
}

func (c *client) answer(stream stagingStream, in *jobpb.ArtifactRequestWrapper) error {
	if q := in.GetResolveArtifact(); q != nil {
		replacements := q.GetArtifacts()
		if c.replace != nil {
			replacements = c.replace(replacements)
		}
		return stream.Send(resolved(replacements...))
	}
	a := in.GetGetArtifact().GetArtifact()
	path := pathOf(a)
	c.fetched = append(c.fetched, path)
	if c.send != nil {
		return c.send(stream, a)
	}
	data, ok := c.files[path]
	if !ok {
		return errors.New("no such file: " + path)
	}
	for piece := range slices.Chunk(data, clientChunk) {
		if err := stream.Send(chunk(piece, false)); err != nil {
			return err
		}
	}
	return stream.Send(chunk(nil, true))
}

func resolved(artifacts ...*pipepb.ArtifactInformation) *jobpb.ArtifactResponseWrapper {
	return &jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
		ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: artifacts}}}
}

func chunk(data []byte, last bool) *jobpb.ArtifactResponseWrapper {
	return &jobpb.ArtifactResponseWrapper{IsLast: last, Response: &jobpb.ArtifactResponseWrapper_GetArtifactResponse{
		GetArtifactResponse: &jobpb.GetArtifactResponse{Data: data}}}
}

// retrieve reads an artifact as a harness does.
func (r *rig) retrieve(ctx context.Context, a *pipepb.ArtifactInformation) ([]byte, error) {
	stream, err := r.retrieval.GetArtifact(ctx, &jobpb.GetArtifactRequest{Artifact: a})
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m.GetData()...)
	}
}

var storeName = regexp.MustCompile(`^store/([0-9a-f]{2})/([0-9a-f]{64})$`)

// blobs lists the store's blobs and fails if there is anything else, unfinished
// files included.
func (r *rig) blobs(t testing.TB) (sums []string) {
	t.Helper()
	err := filepath.WalkDir(r.parent, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(r.parent, path)
		m := storeName.FindStringSubmatch(filepath.ToSlash(rel))
		if m == nil || m[2][:2] != m[1] {
			t.Errorf("a file that isn't a blob: %s", rel)
			return nil
		}
		sums = append(sums, m[2])
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return sums
}

func file(path, sum, name string) *pipepb.ArtifactInformation {
	a := &pipepb.ArtifactInformation{TypeUrn: urns.ArtifactFile, TypePayload: marshal(&pipepb.ArtifactFilePayload{Path: path, Sha256: sum})}
	if name != "" {
		a.RoleUrn, a.RolePayload = urns.ArtifactRoleStagingTo, marshal(&pipepb.ArtifactStagingToRolePayload{StagedName: name})
	}
	return a
}

func embedded(data []byte, name string) *pipepb.ArtifactInformation {
	a := file("", "", name)
	a.TypeUrn, a.TypePayload = urns.ArtifactEmbedded, marshal(&pipepb.EmbeddedFilePayload{Data: data})
	return a
}

func pathOf(a *pipepb.ArtifactInformation) string {
	if a.GetTypeUrn() == urns.ArtifactURL {
		var p pipepb.ArtifactUrlPayload
		proto.Unmarshal(a.GetTypePayload(), &p)
		return p.GetUrl()
	}
	return filePayload(a).GetPath()
}

func filePayload(a *pipepb.ArtifactInformation) *pipepb.ArtifactFilePayload {
	p := &pipepb.ArtifactFilePayload{}
	proto.Unmarshal(a.GetTypePayload(), p)
	return p
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
