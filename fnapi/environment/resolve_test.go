package environment

import (
	"maps"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lintelrun/lintel/internal/fault"
)

// show writes an environment as TYPE:CONFIG.
func show(t *testing.T, env *pipepb.Environment) string {
	t.Helper()
	read := func(m proto.Message) {
		if err := proto.Unmarshal(env.GetPayload(), m); err != nil {
			t.Fatal(err)
		}
	}
	switch env.GetUrn() {
	case URNDocker:
		var p pipepb.DockerPayload
		read(&p)
		return "DOCKER:" + p.GetContainerImage()
	case URNProcess:
		var p pipepb.ProcessPayload
		read(&p)
		text := "PROCESS:" + p.GetCommand()
		for _, name := range slices.Sorted(maps.Keys(p.GetEnv())) {
			text += " " + name + "=" + p.GetEnv()[name]
		}
		return text
	case URNExternal:
		var p pipepb.ExternalPayload
		read(&p)
		text := "EXTERNAL:" + p.GetEndpoint().GetUrl()
		for _, name := range slices.Sorted(maps.Keys(p.GetParams())) {
			text += " " + name + "=" + p.GetParams()[name]
		}
		return text
	}
	return env.GetUrn()
}

func dockerEnv(t *testing.T, image string, capabilities ...string) *pipepb.Environment {
	t.Helper()
	return &pipepb.Environment{
		Urn: URNDocker, Payload: marshal(t, &pipepb.DockerPayload{ContainerImage: image}), Capabilities: capabilities,
	}
}

func processEnv(t *testing.T, command string, capabilities ...string) *pipepb.Environment {
	t.Helper()
	return &pipepb.Environment{
		Urn: URNProcess, Payload: marshal(t, &pipepb.ProcessPayload{Command: command}), Capabilities: capabilities,
	}
}

func externalEnv(t *testing.T, url string, capabilities ...string) *pipepb.Environment {
	t.Helper()
	payload := marshal(t, &pipepb.ExternalPayload{Endpoint: &pipepb.ApiServiceDescriptor{Url: url}})
	return &pipepb.Environment{Urn: URNExternal, Payload: payload, Capabilities: capabilities}
}

const (
	javaBase   = sdkBase + "apache/beam_java11_sdk:2.77.0"
	pythonBase = sdkBase + "apache/beam_python3.11_sdk:2.77.0"
	goBase     = sdkBase + "go:apache/beam_go_sdk:2.77.0"
)

func TestResolve(t *testing.T) {
	for name, c := range map[string]struct {
		env        *pipepb.Environment
		overrides  []string // best first
		impossible string   // URNs that can't be started
		want       string   // of show; empty if refused
		class      fault.Class
		holds      []string // of the refusal, or else of the choice
	}{
		"as asked":             {env: processEnv(t, "boot"), want: "PROCESS:boot"},
		"impossible":           {env: dockerEnv(t, "mine:1"), impossible: URNDocker, class: fault.Unsupported, holds: []string{"environment e: no " + URNDocker, "--environments 'mine=TYPE:CONFIG'"}},
		"impossible of an SDK": {env: processEnv(t, "boot", goBase), impossible: URNProcess, class: fault.Unsupported, holds: []string{"--environments 'go=TYPE:CONFIG'"}},
		"impossible, unnamed":  {env: externalEnv(t, "a:1"), impossible: URNExternal, class: fault.Unsupported, holds: []string{"--environments 'e=TYPE:CONFIG'"}},

		"alternatives by preference":        {env: anyOf(t, dockerEnv(t, "i"), processEnv(t, "p"), externalEnv(t, "a:1")), want: "EXTERNAL:a:1", holds: []string{URNExternal + ", of 3 alternatives"}},
		"alternatives by order":             {env: anyOf(t, processEnv(t, "p"), processEnv(t, "q")), want: "PROCESS:p"},
		"alternatives by possibility":       {env: anyOf(t, dockerEnv(t, "i"), processEnv(t, "p"), externalEnv(t, "a:1")), impossible: URNExternal + URNProcess, want: "DOCKER:i", holds: []string{"(image i), of 3 alternatives"}},
		"no possible alternative":           {env: anyOf(t, dockerEnv(t, "i"), processEnv(t, "p")), impossible: URNDocker + URNProcess, class: fault.Unsupported, holds: []string{"none of its 2 alternatives", "no " + URNDocker, "no " + URNProcess}},
		"no alternative at all":             {env: anyOf(t), class: fault.Unsupported, holds: []string{"0 alternatives"}},
		"alternatives within alternatives":  {env: anyOf(t, anyOf(t, processEnv(t, "p"))), impossible: URNAnyOf, class: fault.Unsupported, holds: []string{URNAnyOf}},
		"garbled alternatives":              {env: &pipepb.Environment{Urn: URNAnyOf, Payload: []byte("\xff")}, class: fault.Invalid, holds: []string{URNAnyOf}},
		"override of alternatives":          {env: anyOf(t, dockerEnv(t, "i", pythonBase), externalEnv(t, "a:1")), overrides: []string{"python=PROCESS:p"}, want: "PROCESS:p"},
		"override does not fall back":       {env: anyOf(t, externalEnv(t, "a:1")), overrides: []string{"e=DOCKER:i"}, impossible: URNDocker, class: fault.Unsupported, holds: []string{"no " + URNDocker}},
		"override of a possible is refused": {env: externalEnv(t, "a:1"), overrides: []string{"e=PROCESS:p"}, impossible: URNProcess, class: fault.Unsupported, holds: []string{"no " + URNProcess}},

		"by id":                 {env: externalEnv(t, "a:1"), overrides: []string{"e=EXTERNAL:b:2"}, want: "EXTERNAL:b:2", holds: []string{URNExternal + ", as environments says of e"}},
		"by image":              {env: dockerEnv(t, "r:5000/a/mine:1"), overrides: []string{"r:5000/a/mine:1=PROCESS:p"}, want: "PROCESS:p"},
		"by image without tag":  {env: dockerEnv(t, "r:5000/a/mine:1"), overrides: []string{"r:5000/a/mine=PROCESS:p"}, want: "PROCESS:p"},
		"by image and digest":   {env: dockerEnv(t, "mine@sha256:00"), overrides: []string{"mine=PROCESS:p"}, want: "PROCESS:p"},
		"by another's image":    {env: dockerEnv(t, "mine:1"), overrides: []string{"mine:2=PROCESS:p,min=PROCESS:p"}, want: "DOCKER:mine:1"},
		"by Java":               {env: externalEnv(t, "a:1", javaBase), overrides: []string{"python=PROCESS:p,java=PROCESS:j"}, want: "PROCESS:j"},
		"by Python":             {env: processEnv(t, "a", pythonBase), overrides: []string{"java=PROCESS:j,python=PROCESS:p"}, want: "PROCESS:p"},
		"by Go":                 {env: processEnv(t, "a", goBase), overrides: []string{"go=PROCESS:p"}, want: "PROCESS:p"},
		"by TypeScript":         {env: dockerEnv(t, "g/beam_typescript_sdk:2"), overrides: []string{"typescript=PROCESS:p"}, want: "PROCESS:p"},
		"by TypeScript, open":   {env: &pipepb.Environment{Urn: typescriptDefault}, overrides: []string{"typescript=PROCESS:p"}, want: "PROCESS:p"},
		"by an image of an SDK": {env: dockerEnv(t, "apache/beam_java17_sdk:2.77.0"), overrides: []string{"java=PROCESS:j"}, want: "PROCESS:j"},
		"not by a likely name":  {env: dockerEnv(t, "mine/golang_python_java:1"), overrides: []string{"go=PROCESS:p,python=PROCESS:p,java=PROCESS:p"}, want: "DOCKER:mine/golang_python_java:1"},

		"an id goes before an image":     {env: dockerEnv(t, "i:1"), overrides: []string{"i=PROCESS:image,e=PROCESS:id"}, want: "PROCESS:id"},
		"an image goes before an SDK":    {env: dockerEnv(t, "i:1", goBase), overrides: []string{"go=PROCESS:sdk,i=PROCESS:image"}, want: "PROCESS:image"},
		"a job goes before a server":     {env: dockerEnv(t, "i:1", goBase), overrides: []string{"go=PROCESS:job", "e=PROCESS:server"}, want: "PROCESS:job"},
		"a server where a job is silent": {env: dockerEnv(t, "i:1", goBase), overrides: []string{"java=PROCESS:job", "e=PROCESS:server"}, want: "PROCESS:server"},

		"the SDK's own image":    {env: externalEnv(t, "a:1", pythonBase), overrides: []string{"python=DOCKER"}, want: "DOCKER:apache/beam_python3.11_sdk:2.77.0"},
		"the Go SDK's own image": {env: externalEnv(t, "a:1", goBase), overrides: []string{"go=DOCKER"}, want: "DOCKER:apache/beam_go_sdk:2.77.0"},
		"its own image":          {env: dockerEnv(t, "i:1", goBase), overrides: []string{"e=DOCKER"}, want: "DOCKER:i:1"},
		"no image of its own":    {env: externalEnv(t, "a:1"), overrides: []string{"e=DOCKER"}, class: fault.Invalid, holds: []string{"e=DOCKER", "DOCKER:IMAGE"}},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(env *pipepb.Environment) error {
				if strings.Contains(c.impossible, env.GetUrn()) {
					return fault.New(fault.Unsupported, "no %s", env.GetUrn())
				}
				return nil
			}
			var overrides []Overrides
			for _, text := range c.overrides {
				o, err := ParseOverrides(text)
				if err != nil {
					t.Fatal(err)
				}
				overrides = append(overrides, o)
			}
			before := proto.Clone(c.env)
			r := Resolve(map[string]*pipepb.Environment{"e": c.env}, check, overrides...)
			err := r.Err(slices.Values([]string{"e"}))
			if (err == nil) != (c.want != "") || fault.ClassOf(err) != c.class {
				t.Fatalf("refused: %v (class %v); want class %v", err, fault.ClassOf(err), c.class)
			}
			told := r.Choices["e"]
			if err != nil {
				told = err.Error()
			} else if got := show(t, r.Environments["e"]); got != c.want {
				t.Errorf("resolved to %s; want %s", got, c.want)
			}
			for _, h := range c.holds {
				if !strings.Contains(told, h) {
					t.Errorf("it is said %q; want it to hold %q", told, h)
				}
			}
			if diff := cmp.Diff(before, c.env, protocmp.Transform()); diff != "" {
				t.Errorf("the pipeline's environment has changed:\n%s", diff)
			}
			if err := r.Err(slices.Values([]string{"another"})); err != nil {
				t.Errorf("refused though no stage uses it: %v", err)
			}
		})
	}
}

func TestResolveNamesAllThatAreRefused(t *testing.T) {
	check := func(env *pipepb.Environment) error { return fault.New(fault.Unsupported, "not %s", env.GetUrn()) }
	r := Resolve(map[string]*pipepb.Environment{"a": processEnv(t, "p"), "b": dockerEnv(t, "i")}, check)
	err := r.Err(maps.Keys(r.Environments))
	want := "environment a: not " + URNProcess + " (or have it started otherwise, by --environments 'a=TYPE:CONFIG')\n" +
		"environment b: not " + URNDocker + " (or have it started otherwise, by --environments 'i=TYPE:CONFIG')"
	if err == nil || err.Error() != want {
		t.Errorf("Err is %v; want %s", err, want)
	}
}

func TestResolveKeepsTheRestOfAnEnvironment(t *testing.T) {
	rest := &pipepb.Environment{
		Capabilities:  []string{goBase, "beam:coder:bytes:v1"},
		Dependencies:  []*pipepb.ArtifactInformation{{RoleUrn: "role"}},
		ResourceHints: map[string][]byte{"beam:resources:cpu_count:v1": []byte("2")},
	}
	outside := anyOf(t, dockerEnv(t, "i"))
	proto.Merge(outside, rest)
	inside := dockerEnv(t, "i")
	proto.Merge(inside, rest)
	plain := externalEnv(t, "a:1")
	proto.Merge(plain, rest)
	override, err := ParseOverrides("go=PROCESS:boot")
	if err != nil {
		t.Fatal(err)
	}
	for name, env := range map[string]*pipepb.Environment{
		"of a plain one": plain, "of an alternative": anyOf(t, inside), "around alternatives": outside,
	} {
		for _, overrides := range []Overrides{nil, override} {
			r := Resolve(map[string]*pipepb.Environment{"e": env}, func(*pipepb.Environment) error { return nil }, overrides)
			got := proto.Clone(r.Environments["e"]).(*pipepb.Environment)
			if overrides != nil && got.GetUrn() != URNProcess {
				t.Errorf("%s: urn %s; want that of the override", name, got.GetUrn())
			}
			got.Urn, got.Payload = "", nil
			if diff := cmp.Diff(rest, got, protocmp.Transform()); diff != "" {
				t.Errorf("%s, overridden %v (-want +got):\n%s", name, overrides != nil, diff)
			}
		}
	}
}

func TestParseOverrides(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"":             {},
		"  ":           {},
		"a=DOCKER:i:1": {"a": "DOCKER:i:1"},
		` java=PROCESS:{"command": "/b o,o}t", "env": {"A": "1,2"}} , python=EXTERNAL:localhost:50000,go=DOCKER:r:5000/i@sha256:0, `: {
			"java": "PROCESS:/b o,o}t A=1,2", "python": "EXTERNAL:localhost:50000", "go": "DOCKER:r:5000/i@sha256:0",
		},
		`a=EXTERNAL:{"url":"h:1","params":{"k":"v"}}`: {"a": "EXTERNAL:h:1 k=v"},
		`r:5000/i:1=PROCESS:/boot`:                    {"r:5000/i:1": "PROCESS:/boot"},
		`a=PROCESS:/boot --x=y,b=PROCESS:c`:           {"a": "PROCESS:/boot --x=y", "b": "PROCESS:c"},
	} {
		o, err := ParseOverrides(text)
		if err != nil {
			t.Errorf("ParseOverrides(%q): %v", text, err)
		}
		got := map[string]string{}
		for _, one := range o {
			got[one.key] = show(t, &pipepb.Environment{Urn: one.urn, Payload: marshal(t, one.payload)})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseOverrides(%q) (-want +got):\n%s", text, diff)
		}
	}
}

func TestParseOverridesRefuses(t *testing.T) {
	for text, holds := range map[string]string{
		"java":                                 `"java" says nothing`,
		"=DOCKER":                              `"" says nothing`,
		"a=DOCKER,b":                           `"b" says nothing`,
		"a=":                                   `"" is no type`,
		"a=docker:i":                           `"docker" is no type`,
		"a=KUBERNETES:x":                       `"KUBERNETES" is no type`,
		"a=LOOPBACK":                           "a=LOOPBACK: only the program that submits",
		"a=PROCESS":                            "a=PROCESS: it needs the command",
		"a=PROCESS:":                           "it needs the command",
		`a=PROCESS:{"env":{}}`:                 "it needs the command",
		`a=PROCESS:{"comand":"x"}`:             `unknown field "comand"`,
		`a=PROCESS:{"command":7}`:              "cannot unmarshal number",
		`a=PROCESS:{"command":"x"`:             "does not end",
		`a=PROCESS:{"command":"x"} y`:          `"y" after its configuration`,
		`a=PROCESS:{x}`:                        "invalid character",
		"a=EXTERNAL":                           "host:port",
		`a=EXTERNAL:{"url":""}`:                "host:port",
		`a=DOCKER:{"image":"x"}`:               "the name of an image",
		"a=DOCKER:i,a=PROCESS:x":               `"a" is given twice`,
		"a=" + strings.Repeat("X", 1000) + ":": "X… is no type",
	} {
		_, err := ParseOverrides(text)
		if fault.ClassOf(err) != fault.Invalid || !strings.Contains(strings.ReplaceAll(err.Error(), `X…"`, "X…"), holds) {
			t.Errorf("ParseOverrides(%.60q): %v; want class %v and %q", text, err, fault.Invalid, holds)
		}
	}
}

func FuzzParseOverrides(f *testing.F) {
	f.Add(`java=PROCESS:{"command":"x","env":{"a":"b"}},python=EXTERNAL:localhost:50000,go=DOCKER:image`)
	f.Add(`a=EXTERNAL:{"url":"x"},`)
	f.Fuzz(func(t *testing.T, text string) {
		o, err := ParseOverrides(text)
		if err != nil {
			if fault.ClassOf(err) != fault.Invalid {
				t.Errorf("class of %v is %v", err, fault.ClassOf(err))
			}
			return
		}
		env := dockerEnv(t, "i")
		for _, one := range o {
			if _, err := one.apply(env); err != nil && fault.ClassOf(err) != fault.Invalid {
				t.Errorf("apply %+v: %v", one, err)
			}
		}
	})
}

func TestUnused(t *testing.T) {
	o, err := ParseOverrides("java=PROCESS:x,go=PROCESS:x,i=PROCESS:x,pyhton=PROCESS:x,e=PROCESS:x")
	if err != nil {
		t.Fatal(err)
	}
	got := o.Unused(map[string]*pipepb.Environment{"e": processEnv(t, "x", goBase), "f": anyOf(t, dockerEnv(t, "i:1"))})
	if diff := cmp.Diff([]string{"java", "pyhton"}, got); diff != "" {
		t.Errorf("unused (-want +got):\n%s", diff)
	}
}
