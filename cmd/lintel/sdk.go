package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// sdk is what one of Beam's SDKs needs to be told to submit a pipeline to us.
type sdk struct {
	name, title string
	// flags, in the SDK's own names; %s stands for the job endpoint.
	flags []flag
	// command is how people usually start a pipeline of this SDK.
	command string
}

type flag struct{ name, value string }

// restoring returns the SDK with one more flag, by which a job begins with a savepoint. A program of Java or Go takes
// the flags that it knows, and no others, but all know experiments.
func (k *sdk) restoring(uri string, command []string) (*sdk, error) {
	f := flag{"restore_from", uri}
	if k.name == "java" || k.name == "go" {
		f = flag{"experiments", "lintel_restore_from=" + uri}
	}
	for word := range strings.FieldsSeq(strings.Join(command, " ")) { // some tools take all flags as one word
		if strings.Contains(word, "-"+f.name+"=") || strings.HasSuffix(word, "-"+f.name) {
			return nil, usageError(fmt.Errorf("--from: the program's command has --%s already; add %s to it", f.name, f.value))
		}
	}
	with := *k
	with.flags = append(slices.Clone(k.flags), f)
	return &with, nil
}

var sdks = []*sdk{
	{name: "python", title: "Python", command: "python my_pipeline.py", flags: []flag{
		{"runner", "PortableRunner"}, {"job_endpoint", "%s"}, {"environment_type", "LOOPBACK"}}},
	{name: "java", title: "Java", command: "java -jar my_pipeline.jar", flags: []flag{
		{"runner", "PortableRunner"}, {"jobEndpoint", "%s"}, {"defaultEnvironmentType", "LOOPBACK"}}},
	{name: "go", title: "Go", command: "go run ./my_pipeline", flags: []flag{
		{"runner", "universal"}, {"endpoint", "%s"}, {"environment_type", "LOOPBACK"}}},
	{name: "typescript", title: "TypeScript", command: "node my_pipeline.js", flags: []flag{
		{"runner", "universal"}, {"environmentType", "LOOPBACK"}}},
}

// The TypeScript SDK's universal runner starts a job server of its own, unless this
// variable names another (apache_beam/utils/service.ts): it takes no endpoint by flag.
const (
	overrides  = "BEAM_SERVICE_OVERRIDES"
	tsJobKey   = "python:apache_beam.runners.portability.local_job_service_main"
	endpointIn = "%s"
)

var tsEndpoint = regexp.MustCompile(`^[a-zA-Z0-9.]+:[0-9]+$`)

func sdkNames() (names []string) {
	for _, k := range sdks {
		names = append(names, k.name)
	}
	return names
}

func sdkNamed(name string) *sdk {
	return sdks[slices.IndexFunc(sdks, func(k *sdk) bool { return k.name == name })]
}

// example is a line for people to copy.
func (k *sdk) example(endpoint string) string {
	line := k.command + " " + strings.Join(k.missing(nil, endpoint), " ")
	switch {
	case k.name != "typescript":
		return line
	case !tsEndpoint.MatchString(endpoint):
		return fmt.Sprintf("(takes no endpoint such as %s: give --bind a host of letters, digits and dots)", endpoint)
	}
	return fmt.Sprintf(`%s='{"%s":"%s"}' %s`, overrides, tsJobKey, endpoint, line)
}

// missing returns the flags that are not among args.
func (k *sdk) missing(args []string, endpoint string) (flags []string) {
	for _, f := range k.flags {
		if _, given := flagValue(args, f.name); !given {
			flags = append(flags, "--"+f.name+"="+strings.ReplaceAll(f.value, endpointIn, endpoint))
		}
	}
	return flags
}

// flagValue finds --name=value, --name value, or either with one dash.
func flagValue(args []string, name string) (value string, given bool) {
	for i, a := range args {
		if !strings.HasPrefix(a, "-") {
			continue
		}
		key, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-"), "=")
		if key != name {
			continue
		}
		if !hasValue && i+1 < len(args) {
			value = args[i+1]
		}
		return value, true
	}
	return "", false
}

// endpoint is the job endpoint that args already name, if any.
func (k *sdk) endpoint(args []string) (string, bool) {
	for _, f := range k.flags {
		if f.value == endpointIn {
			return flagValue(args, f.name)
		}
	}
	return "", false
}

// environment returns what the SDK's process needs beside our own environment,
// which env is ("NAME=value").
func (k *sdk) environment(env []string, endpoint string) ([]string, error) {
	add := []string{"LINTEL_ENDPOINT=" + endpoint, "LINTEL_JOB_ENDPOINT=" + endpoint}
	if k.name != "typescript" {
		return add, nil
	}
	if !tsEndpoint.MatchString(endpoint) {
		return nil, usageError(fmt.Errorf("the TypeScript SDK takes no endpoint such as %s: the host must be of letters, digits and dots", endpoint))
	}
	services := map[string]string{}
	for _, v := range env {
		if given, ok := strings.CutPrefix(v, overrides+"="); ok && given != "" {
			if err := json.Unmarshal([]byte(given), &services); err != nil {
				return nil, usageError(fmt.Errorf("%s: %w", overrides, err))
			}
		}
	}
	if services[tsJobKey] == "" {
		services[tsJobKey] = endpoint
	}
	b, err := json.Marshal(services)
	return append(add, overrides+"="+string(b)), err
}

var pythonName = regexp.MustCompile(`^(python|pypy)[0-9.]*$`)

// detectSDK tells whose pipeline a command starts: by the first words before any
// flag, so that "uv run wc.py" works too, or because it is a Go program.
func detectSDK(command []string) (*sdk, error) {
	for i, word := range command {
		if strings.HasPrefix(word, "-") {
			break
		}
		base := strings.TrimSuffix(filepath.Base(word), ".exe")
		switch ext := filepath.Ext(base); {
		case pythonName.MatchString(base), ext == ".py":
			return sdkNamed("python"), nil
		case base == "go":
			if i+1 < len(command) && command[i+1] == "run" {
				return sdkNamed("go"), nil
			}
			return nil, usageError(errors.New("of the go command, only go run starts a pipeline"))
		case slices.Contains([]string{"java", "mvn", "mvnw", "gradle", "gradlew"}, base):
			return sdkNamed("java"), nil
		case slices.Contains([]string{"node", "npx", "npm", "yarn", "pnpm", "ts-node", "tsx"}, base), ext == ".js", ext == ".ts":
			return sdkNamed("typescript"), nil
		}
	}
	if path, err := exec.LookPath(command[0]); err == nil {
		if _, err := buildinfo.ReadFile(path); err == nil {
			return sdkNamed("go"), nil
		}
	}
	return nil, usageError(fmt.Errorf("can't tell which SDK %q is of; say so by --sdk=%s", command[0], strings.Join(sdkNames(), "|")))
}
