package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/lintelrun/lintel/fnapi/environment/docker"
)

const (
	toolTimeout   = 30 * time.Second // a first import of apache_beam takes several seconds
	engineTimeout = 5 * time.Second
)

// tool is a program that only some pipelines need.
type tool struct {
	name     string   // as it is called in the report
	programs []string // the first that is in PATH is asked
	args     []string // which make it tell its version
	meaning  string
	advice   string
}

// ask runs the tool and returns what it printed. What it can't be asked is a finding.
func (t tool) ask(ctx context.Context) (printed string, f finding) {
	f = finding{Name: t.name, Status: standingMissing, Meaning: t.meaning, Advice: t.advice}
	var path string
	for _, name := range t.programs {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		f.Found = "no " + strings.Join(t.programs, " or ") + " in PATH"
		return "", f
	}
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, t.args...)
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local") // go would fetch what a go.mod here asks for
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		f.Found = fmt.Sprintf("%s has not told its version within %v", path, toolTimeout)
	case err != nil:
		f.Found = fmt.Sprintf("%s does not run: %v: %s", path, err, shortened(string(out)))
	default:
		f.Status, f.Advice = standingOK, ""
	}
	return string(out), f
}

// version is a check of a tool that is there or not, whose first line tells its version.
func (t tool) version(ctx context.Context) []finding {
	printed, f := t.ask(ctx)
	if f.Status == standingOK {
		for line := range strings.Lines(strings.TrimSpace(printed)) {
			if f.Found = shortened(line); !strings.HasPrefix(f.Found, "Picked up ") { // the JVM's word on JAVA_TOOL_OPTIONS
				break
			}
		}
	}
	return []finding{f}
}

// colours are what some tools print even where no terminal is.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// shortened is the beginning of what a tool has printed.
func shortened(text string) string {
	const most = 200
	text = colours.ReplaceAllString(text, "")
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return oneLine(text)
}

func goTool(ctx context.Context) []finding {
	return tool{
		name: "Go", programs: []string{"go"}, args: []string{"version"},
		meaning: "only for Go pipelines", advice: "install Go from your system's packages or from go.dev",
	}.version(ctx)
}

func java(ctx context.Context) []finding {
	return tool{
		name: "Java", programs: []string{"java"}, args: []string{"-version"},
		meaning: "only for Java pipelines, and transforms in Java of other pipelines", advice: "install a JDK that Beam supports: 11, 17 or 21",
	}.version(ctx)
}

func maven(ctx context.Context) []finding {
	return tool{
		name: "Maven", programs: []string{"mvn"}, args: []string{"--batch-mode", "--version"},
		meaning: "only for Java pipelines that are built by it", advice: "install Maven, or use your project's mvnw or gradlew",
	}.version(ctx)
}

func node(ctx context.Context) []finding {
	return tool{
		name: "Node", programs: []string{"node"}, args: []string{"--version"},
		meaning: "only for TypeScript pipelines", advice: "install a supported release of Node.js",
	}.version(ctx)
}

func npm(ctx context.Context) []finding {
	return tool{
		name: "npm", programs: []string{"npm"}, args: []string{"--version"},
		meaning: "only for TypeScript pipelines: it installs apache-beam", advice: "install npm; it comes with Node.js",
	}.version(ctx)
}

// pythonQuestion prints three lines: version, whether environments can be made, Beam's version
// or why it can't be imported.
const pythonQuestion = `
import sys
print("%d.%d.%d" % sys.version_info[:3])
try:
    import venv, ensurepip
    print("yes")
except ImportError:
    print("no")
try:
    import apache_beam
    print("beam " + apache_beam.__version__)
except BaseException as e:
    print("%s: %s" % (type(e).__name__, str(e).replace("\n", " ")))
`

func python(ctx context.Context) []finding {
	printed, f := tool{
		name: "Python", programs: []string{"python3", "python"}, args: []string{"-W", "ignore", "-c", pythonQuestion},
		meaning: "only for Python pipelines", advice: "install Python 3 with its venv module",
	}.ask(ctx)
	lines := strings.Split(strings.TrimSpace(printed), "\n")
	if f.Status != standingOK {
		return []finding{f}
	}
	if len(lines) < 3 {
		f.Status, f.Found, f.Advice = standingMissing, "it prints "+shortened(printed), "see that python3 in PATH is Python 3"
		return []finding{f}
	}
	lines = lines[len(lines)-3:] // imports may print, too
	f.Found = "Python " + lines[0]
	if !strings.HasPrefix(lines[0], "3.") {
		f.Status, f.Advice = standingMissing, "install Python 3 with its venv module"
		return []finding{f}
	}
	venv := finding{Name: "Python venv", Status: standingOK, Found: "environments can be made", Meaning: "for the packages of Python pipelines"}
	if lines[1] != "yes" {
		venv.Status, venv.Found = standingMissing, "Python's modules venv and ensurepip cannot be imported"
		venv.Advice = "install them; some systems have them in a package python3-venv"
	}
	beam := finding{Name: "Python Beam", Status: standingOK, Meaning: "only for Python pipelines"}
	var there bool
	if beam.Found, there = strings.CutPrefix(lines[2], "beam "); there {
		beam.Found = "apache_beam " + beam.Found
	} else {
		beam.Status, beam.Found = standingMissing, "apache_beam cannot be imported: "+shortened(lines[2])
		beam.Advice = "activate the environment that has it, or: python3 -m venv .venv && .venv/bin/pip install apache-beam"
	}
	return []finding{f, venv, beam}
}

func dockerEngine(ctx context.Context) []finding {
	f := finding{Name: "Docker", Status: standingOK, Meaning: "only for pipelines with DOCKER environments"}
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	version, err := docker.EngineVersion(ctx, "")
	switch {
	case errors.Is(err, docker.ErrNoEngine):
		f.Status, f.Found = standingMissing, err.Error()
		f.Advice = "start a Docker engine, or set DOCKER_HOST to where one is; LOOPBACK and PROCESS environments need none"
	case err != nil:
		f.Status, f.Found, f.Advice = standingMissing, err.Error(), "see what DOCKER_HOST and the other DOCKER_ variables say"
	default:
		f.Found = "engine " + version
	}
	return []finding{f}
}
