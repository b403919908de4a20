package environment

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
)

// Overrides say which environments of pipelines are started as something else than the pipeline
// asks for. Nil is none.
type Overrides []override

// override replaces one environment, or several.
type override struct {
	// key is the id of an environment, the name of its image, or its SDK's name.
	key string
	urn string
	// payload of the environment, nil for the image that the environment's SDK tells.
	payload proto.Message
}

// OverridesSyntax is how overrides are written, for messages and help.
const OverridesSyntax = `WHICH=TYPE:CONFIG, several with commas between: WHICH is an SDK (java, python, go, typescript), ` +
	`the image of an environment or its id; TYPE:CONFIG is PROCESS:COMMAND, PROCESS:{"command":…,"env":{…}}, ` +
	`EXTERNAL:HOST:PORT, EXTERNAL:{"url":…,"params":{…}}, DOCKER:IMAGE, or DOCKER for the image that belongs to the SDK`

// ParseOverrides reads what is written as in OverridesSyntax. CONFIG is as in the option
// --environment_config of Beam's SDKs. Errors are of class Invalid.
func ParseOverrides(text string) (Overrides, error) {
	var all Overrides
	for rest := strings.TrimSpace(text); rest != ""; {
		entry := rest
		o, after, err := parseOverride(entry)
		if err != nil {
			return nil, fault.New(fault.Invalid, "environments: %w; want %s", err, OverridesSyntax)
		}
		if slices.ContainsFunc(all, func(other override) bool { return other.key == o.key }) {
			return nil, fault.New(fault.Invalid, "environments: %q is given twice", o.key)
		}
		all, rest = append(all, o), strings.TrimSpace(after)
	}
	return all, nil
}

// parseOverride reads the first entry of text and returns what follows the comma behind it.
func parseOverride(text string) (o override, rest string, err error) {
	key, text, ok := strings.Cut(text, "=")
	key = strings.TrimSpace(key)
	if !ok || key == "" || strings.ContainsAny(key, ",{\"") {
		return o, "", fmt.Errorf("%q says nothing of an environment", clip(strings.TrimSpace(key)))
	}
	o.key = key
	kind, text := splitAt(text, ":,")
	kind = strings.TrimSpace(kind)
	var config string
	if after, hasConfig := strings.CutPrefix(text, ":"); hasConfig {
		if config, text, err = splitConfig(after); err != nil {
			return o, "", fmt.Errorf("%s=%s: %w", key, kind, err)
		}
	}
	if rest, ok = strings.CutPrefix(text, ","); !ok && text != "" {
		return o, "", fmt.Errorf("%s=%s: %q after its configuration", key, kind, clip(text))
	}
	if o.urn, o.payload, err = parseConfig(kind, config); err != nil {
		return o, "", fmt.Errorf("%s=%s: %w", key, kind, err)
	}
	return o, rest, nil
}

// splitAt cuts text before the first of the given characters.
func splitAt(text, chars string) (before, from string) {
	if i := strings.IndexAny(text, chars); i >= 0 {
		return text[:i], text[i:]
	}
	return text, ""
}

// splitConfig cuts text behind a configuration: a JSON object, or all up to the next comma.
func splitConfig(text string) (config, rest string, err error) {
	trimmed := strings.TrimSpace(text)
	if !strings.HasPrefix(trimmed, "{") {
		config, rest = splitAt(text, ",")
		return strings.TrimSpace(config), rest, nil
	}
	d := json.NewDecoder(strings.NewReader(trimmed))
	var object json.RawMessage
	if err := d.Decode(&object); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("its JSON object does not end")
		}
		return "", "", err
	}
	return string(object), strings.TrimSpace(trimmed[d.InputOffset():]), nil
}

// parseConfig reads what Beam's SDKs take as --environment_type and --environment_config.
func parseConfig(kind, config string) (urn string, payload proto.Message, err error) {
	isJSON := strings.HasPrefix(config, "{")
	switch kind {
	case "PROCESS":
		p := struct {
			Command, OS, Arch string
			Env               map[string]string
		}{Command: config}
		if isJSON {
			p.Command = ""
			if err := decode(config, &p); err != nil {
				return "", nil, err
			}
		}
		if p.Command == "" {
			return "", nil, errors.New("it needs the command that starts a worker")
		}
		return URNProcess, &pipepb.ProcessPayload{Command: p.Command, Os: p.OS, Arch: p.Arch, Env: p.Env}, nil
	case "EXTERNAL":
		e := struct {
			URL    string
			Params map[string]string
		}{URL: config}
		if isJSON {
			e.URL = ""
			if err := decode(config, &e); err != nil {
				return "", nil, err
			}
		}
		if e.URL == "" {
			return "", nil, errors.New("it needs the host:port of a worker pool")
		}
		return URNExternal, &pipepb.ExternalPayload{Endpoint: &pipepb.ApiServiceDescriptor{Url: e.URL}, Params: e.Params}, nil
	case "DOCKER":
		if config == "" {
			return URNDocker, nil, nil
		}
		if isJSON {
			return "", nil, errors.New("its configuration is the name of an image")
		}
		return URNDocker, &pipepb.DockerPayload{ContainerImage: config}, nil
	case "LOOPBACK":
		return "", nil, errors.New("only the program that submits a pipeline can offer to run its functions itself")
	}
	return "", nil, fmt.Errorf("%q is no type of environments", clip(kind))
}

func decode(config string, into any) error {
	d := json.NewDecoder(strings.NewReader(config))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// clip keeps a message short.
func clip(text string) string {
	const most = 40
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// Unused returns those keys that are about no environment of envs.
func (o Overrides) Unused(envs map[string]*pipepb.Environment) (keys []string) {
	for _, one := range o {
		used := false
		for id, env := range envs {
			used = used || slices.Contains(keysOf(id, env), one.key)
		}
		if !used {
			keys = append(keys, one.key)
		}
	}
	return keys
}

// of returns the override for an environment, nil if there is none. What is said of an id goes
// before what is said of an image, and that before what is said of an SDK.
func (o Overrides) of(id string, env *pipepb.Environment) *override {
	for _, key := range keysOf(id, env) {
		if i := slices.IndexFunc(o, func(one override) bool { return one.key == key }); i >= 0 {
			return &o[i]
		}
	}
	return nil
}

// apply returns env with what the override says in place of its kind.
func (o *override) apply(env *pipepb.Environment) (*pipepb.Environment, error) {
	payload := o.payload
	if payload == nil {
		image := ownImage(env)
		if image == "" {
			return nil, fault.New(fault.Invalid, "%s=DOCKER: the environment names no image: say which, as DOCKER:IMAGE", o.key)
		}
		payload = &pipepb.DockerPayload{ContainerImage: image}
	}
	b, err := proto.Marshal(payload)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s: %w", o.key, err)
	}
	with := proto.Clone(env).(*pipepb.Environment)
	with.Urn, with.Payload = o.urn, b
	return with, nil
}
