package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/lintelrun/lintel/internal/fault"
)

// image is the name of an image, as its author wrote it and in full.
type image struct {
	text  string
	named reference.Named
}

func (i image) String() string { return i.text }

// provide sees to it that the engine has an image a worker can be started from. say is told what
// takes long.
func (l *Launcher) provide(ctx context.Context, engine *client.Client, ref image, say func(string)) error {
	have, err := engine.ImageInspect(ctx, ref.text)
	missing := cerrdefs.IsNotFound(err)
	if l.config.Pull == PullAlways || l.config.Pull == PullIfMissing && missing {
		if missing {
			say("pulling the image " + ref.text)
		}
		begin := time.Now()
		if err := pull(ctx, engine, ref); err != nil {
			return err
		}
		l.log.Info("image pulled", "image", ref.text, "took", time.Since(begin))
		have, err = engine.ImageInspect(ctx, ref.text)
	}
	if err != nil {
		return l.lacks(ref, err)
	}
	if have.Config == nil || len(have.Config.Entrypoint) == 0 {
		return fault.New(fault.Invalid, "the image has no entry point; that of a Beam SDK's image is its boot program")
	}
	return nil
}

// mustHave refuses an image that the engine does not have.
func (l *Launcher) mustHave(ctx context.Context, engine *client.Client, ref image) error {
	if _, err := engine.ImageInspect(ctx, ref.text); err != nil {
		return l.lacks(ref, err)
	}
	return nil
}

func (l *Launcher) lacks(ref image, err error) error {
	if cerrdefs.IsNotFound(err) && l.config.Pull == PullNever {
		return fault.New(fault.Unsupported, "the Docker engine has no image %v, and the pull policy is %q: "+
			"pull or build the image there, or let it be pulled by the policy %q", ref, PullNever, PullIfMissing)
	}
	return fault.New(fault.Retryable, "image %v: %w", ref, err)
}

// pull fetches an image, with the credentials that the Docker command line would use.
func pull(ctx context.Context, engine *client.Client, ref image) error {
	auth, err := registryAuth(ctx, reference.Domain(ref.named))
	if err != nil {
		return fault.New(fault.Invalid, "pull failed: %w", err)
	}
	progress, err := engine.ImagePull(ctx, ref.text, dockerimage.PullOptions{RegistryAuth: auth})
	if err == nil {
		err = pulled(progress)
		progress.Close()
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fault.New(fault.Retryable, "pull failed: %w", context.Cause(ctx))
	case cerrdefs.IsNotFound(err), cerrdefs.IsInvalidArgument(err), cerrdefs.IsPermissionDenied(err), cerrdefs.IsUnauthorized(err):
		return fault.New(fault.Invalid, "pull failed: %w", err)
	}
	return fault.New(fault.Retryable, "pull failed: %w", err)
}

// pulled reads the progress of a pull to its end and returns what went wrong.
func pulled(progress io.Reader) error {
	for messages := json.NewDecoder(progress); ; {
		var m struct{ Error string }
		switch err := messages.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.Error != "":
			return errors.New(m.Error)
		}
	}
}
