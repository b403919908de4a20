package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable"
)

func newPlan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan PIPELINE.pb",
		Short: "Show how a pipeline would be run, without running it",
		Long: `Show the plan of a pipeline: its stages, what is fused into each, and the edges between them.

PIPELINE.pb is a Pipeline message of beam_runner_api.proto, binary or as JSON; "-" reads
standard input. With --output=dot the plan is a graph for Graphviz:

  lintel plan --output=dot wordcount.pb | dot -Tsvg -o plan.svg`,
		Args: exactly(cobra.ExactArgs(1)),
	}
	output := choiceFlag(cmd, "output", "o", "output format", "text", "json", "dot")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := readPipeline(args[0], cmd.InOrStdin())
		if err != nil {
			return err
		}
		plan, err := portable.Compile(cmd.Context(), p, portable.Options{})
		if err != nil {
			return err
		}
		switch output.value {
		case "json":
			b, err := plan.JSON()
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), json.RawMessage(b))
		case "dot":
			_, err = io.WriteString(cmd.OutOrStdout(), plan.Dot())
		default:
			_, err = io.WriteString(cmd.OutOrStdout(), plan.Text())
		}
		return err
	}
	return cmd
}

func readPipeline(path string, stdin io.Reader) (*pipepb.Pipeline, error) {
	var b []byte
	var err error
	if path == "-" {
		b, err = io.ReadAll(stdin)
	} else {
		b, err = os.ReadFile(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &exitError{exitNotFound, err}
	case err != nil:
		return nil, err
	}
	p := &pipepb.Pipeline{}
	// No field of a binary Pipeline begins with the byte of '{'.
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, p)
	} else {
		err = proto.Unmarshal(b, p)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no Pipeline of beam_runner_api.proto: %w", path, err)
	}
	if len(p.GetComponents().GetTransforms()) == 0 {
		return nil, fmt.Errorf("%s is a Pipeline without transforms", path)
	}
	return p, nil
}
