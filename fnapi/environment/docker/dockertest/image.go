package dockertest

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// Image is an image to be made.
type Image struct {
	// Name is its name and tag.
	Name string
	// Files are its files and folders by the paths that they have in it, and where they come from
	// on this machine; folders come with all that is in them. An empty source makes an empty
	// folder that all may write to.
	Files map[string]string
	// Skip are names of files and folders, wherever they are, and paths on this machine, that are
	// left out.
	Skip []string
	// Changes are instructions as in a Dockerfile, such as `ENTRYPOINT ["/boot"]` and `ENV A="b c"`.
	Changes []string
}

// Make makes an image, or another of the same name.
func (e *Engine) Make(ctx context.Context, i Image) error {
	layer, writer := io.Pipe()
	go func() { writer.CloseWithError(i.Write(writer)) }()
	defer layer.Close()
	err := e.with(func(c *client.Client) error {
		progress, err := c.ImageImport(ctx, dockerimage.ImportSource{Source: layer, SourceName: "-"}, i.Name,
			dockerimage.ImportOptions{Changes: i.Changes})
		if err != nil {
			return err
		}
		defer progress.Close()
		text, err := io.ReadAll(progress)
		if err == nil && strings.Contains(string(text), `"error"`) {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	return nil
}

// Write writes the files as a tar.
func (i Image) Write(to io.Writer) error {
	w := tar.NewWriter(to)
	written := map[string]bool{}
	for target, source := range i.Files {
		if source == "" {
			header := &tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(target, "/") + "/", Mode: 0o1777}
			if err := w.WriteHeader(header); err != nil {
				return err
			}
			continue
		}
		err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if slices.Contains(i.Skip, d.Name()) || slices.Contains(i.Skip, path) {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			rel, err := filepath.Rel(source, path)
			if err != nil {
				return err
			}
			name := filepath.Join(strings.TrimPrefix(target, "/"), rel)
			if written[name] { // also within another folder of Files
				return nil
			}
			written[name] = true
			return add(w, name, path)
		})
		if err != nil {
			return err
		}
	}
	return w.Close()
}

// add writes one file, folder or symbolic link; there is nothing else in an image.
func add(w *tar.Writer, name, path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	var link string
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name = name
	if err := w.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(w, file)
	return err
}
