package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDetectSDK(t *testing.T) {
	self, err := os.Executable() // a Go program
	if err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"python wc.py":                    "python",
		"/usr/bin/python3.11 -m wc":       "python",
		"./wc.py":                         "python",
		"uv run wc.py":                    "python",
		"env A=b python wc.py":            "python",
		"go run ./wc":                     "go",
		self:                              "go",
		"java -jar wc.jar":                "java",
		"./mvnw exec:java":                "java",
		"./gradlew run":                   "java",
		"node wc.js":                      "typescript",
		"npx ts-node wc.ts":               "typescript",
		"go build ./wc":                   "",
		"sh wc.sh":                        "",
		"no-such-program --from=wc.py":    "",
		"no-such-program -x python wc.py": "",
	} {
		got, err := detectSDK(strings.Fields(command))
		switch {
		case want == "" && (err == nil || codeOf(err) != exitUsage):
			t.Errorf("%s: %v, %v; want an error of usage", command, got, err)
		case want != "" && (err != nil || got.name != want):
			t.Errorf("%s: %v, %v; want %s", command, got, err, want)
		}
	}
}

func TestCommandsAreCompleted(t *testing.T) {
	const (
		py = "--runner=PortableRunner --job_endpoint=h:1 --environment_type=LOOPBACK"
		jv = "--runner=PortableRunner --jobEndpoint=h:1 --defaultEnvironmentType=LOOPBACK"
		gf = "--runner=universal --endpoint=h:1 --environment_type=LOOPBACK"
		ts = "--runner=universal --environmentType=LOOPBACK"
	)
	for _, c := range []struct{ sdk, command, want string }{
		{"python", "python wc.py --input x", "python wc.py --input x " + py},
		{"python", "python wc.py --runner Direct --environment_type=X --job_endpoint=y", "python wc.py --runner Direct --environment_type=X --job_endpoint=y"},
		{"java", "java -jar wc.jar", "java -jar wc.jar " + jv},
		{"java", "mvn exec:java", "mvn exec:java -Dexec.args=" + jv},
		{"java", "gradle run --args=--runner=X|--in=y", "gradle run --args=--runner=X --in=y --jobEndpoint=h:1 --defaultEnvironmentType=LOOPBACK"},
		{"typescript", "npm run wc", "npm run wc -- " + ts},
		{"typescript", "npm run wc -- --in=x", "npm run wc -- --in=x " + ts},
		// Go reads no flags after the first word that is none.
		{"go", "./wc in.txt", "./wc " + gf + " in.txt"},
		{"go", "go run ./wc in.txt", "go run ./wc " + gf + " in.txt"},
		{"go", "go run -race -tags x ./wc -n 3", "go run -race -tags x ./wc " + gf + " -n 3"},
		{"go", "go run -tags=x a.go b.go in", "go run -tags=x a.go b.go " + gf + " in"},
		{"go", "go run ./wc -endpoint=z", "go run ./wc --runner=universal --environment_type=LOOPBACK -endpoint=z"},
		{"go", "go run", "go run " + gf},
	} {
		words := strings.Fields(c.command)
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "|", " ")
		}
		before := strings.Join(words, " ")
		got := strings.Join(sdkNamed(c.sdk).complete(words, "h:1"), " ")
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", c.command, d)
		}
		if after := strings.Join(words, " "); after != before {
			t.Errorf("%s: the argument became %s", before, after)
		}
	}
}

// A savepoint goes where the SDK lets it pass.
func TestCommandsThatBeginWithASavepoint(t *testing.T) {
	const uri = "file:///s"
	for _, c := range []struct{ sdk, command, want string }{
		{"python", "python wc.py", "--restore_from=" + uri},
		{"typescript", "npm run wc", "--restore_from=" + uri},
		{"java", "java -jar wc.jar", "--experiments=lintel_restore_from=" + uri},
		{"go", "./wc", "--experiments=lintel_restore_from=" + uri},
	} {
		k, err := sdkNamed(c.sdk).restoring(uri, strings.Fields(c.command))
		if err != nil {
			t.Fatal(err)
		}
		if got := k.complete(strings.Fields(c.command), "h:1"); !slices.Contains(got, c.want) {
			t.Errorf("%s: %q, without %s", c.command, got, c.want)
		}
		if again := sdkNamed(c.sdk).complete(strings.Fields(c.command), "h:1"); slices.Contains(again, c.want) {
			t.Errorf("%s: later commands have it too", c.sdk)
		}
	}
	for sdk, command := range map[string]string{
		"python": "python wc.py --restore_from file:///t", "go": "./wc -experiments=a", "java": "mvn exec:java -Dexec.args=--experiments=a",
	} {
		if _, err := sdkNamed(sdk).restoring(uri, strings.Fields(command)); codeOf(err) != exitUsage {
			t.Errorf("%s: %v", command, err)
		}
	}
}

func TestTypeScriptExampleOnlyWhereItWorks(t *testing.T) {
	k := sdkNamed("typescript")
	want := `BEAM_SERVICE_OVERRIDES='{"python:apache_beam.runners.portability.local_job_service_main":"127.0.0.1:8099"}' ` +
		`node my_pipeline.js --runner=universal --environmentType=LOOPBACK`
	if got := k.example("127.0.0.1:8099"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := k.example("[::1]:8099"); strings.Contains(got, overrides) || !strings.Contains(got, "[::1]:8099") {
		t.Errorf("an endpoint that the SDK can't read: %s", got)
	}
}

func TestTypeScriptFindsItsServerByEnvironment(t *testing.T) {
	k := sdkNamed("typescript")
	env, err := k.environment([]string{"A=b", overrides + `={"python:*":"/venv/bin/python"}`}, "127.0.0.1:8099")
	if err != nil {
		t.Fatal(err)
	}
	want := overrides + `={"python:*":"/venv/bin/python","` + tsJobKey + `":"127.0.0.1:8099"}`
	if got := env[len(env)-1]; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := k.environment([]string{overrides + "=nonsense"}, "127.0.0.1:8099"); codeOf(err) != exitUsage {
		t.Errorf("nonsense in %s: %v", overrides, err)
	}
	if _, err := k.environment(nil, "[::1]:8099"); codeOf(err) != exitUsage {
		t.Errorf("an endpoint that the SDK would take for a path: %v", err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1000": 1000, "512M": 512 << 20, "2G": 2 << 30, "2GiB": 2 << 30, "3kb": 3 << 10, "1T": 1 << 40} {
		var s size
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%s: %d, %v; want %d", text, s, err, want)
		}
		var again size
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%s prints as %s, which reads as %d, %v", text, s.String(), again, err)
		}
	}
	for _, text := range []string{"", "M", "-1", "1.5G", "9999999T", "5X", "5MM"} {
		if s := size(0); s.Set(text) == nil {
			t.Errorf("%q is taken as %d", text, s)
		}
	}
}
