package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version string

const beamModule = "github.com/apache/beam/sdks/v2"

// build tells what this binary was made from.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	// Time of the revision, RFC 3339.
	Time string `json:"time,omitempty"`
	// Modified is true if the sources differed from the revision.
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// Beam is the version of the Beam model that the binary speaks.
	Beam string `json:"beam,omitempty"`
}

func readBuild() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = cmp.Or(b.Version, info.Main.Version, "(devel)")
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	for _, dep := range info.Deps {
		if dep.Path == beamModule {
			b.Beam = dep.Version
		}
	}
	return b
}

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print what this binary was made from",
		Args:  exactly(cobra.NoArgs),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		b, w := readBuild(), cmd.OutOrStdout()
		if output.value == "json" {
			return printJSON(w, b)
		}
		revision := ""
		if b.Revision != "" {
			revision = " (" + b.Revision[:min(12, len(b.Revision))]
			if b.Modified {
				revision += ", modified"
			}
			revision += ")"
		}
		_, err := fmt.Fprintf(w, "lintel %s%s, Beam %s, %s, %s\n", b.Version, revision, cmp.Or(b.Beam, "unknown"), b.Go, b.Platform)
		return err
	}
	return cmd
}
