// Command worker is what the images of the docker launcher's tests hold: the worker of the
// conformance suite, or one that shows what a container gives it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/lintelrun/lintel/fnapi/environment/environmenttest"
)

// showEnv holds the folder to look into.
const showEnv = "DOCKER_TEST_SHOW"

func main() {
	environmenttest.RunHelper()
	dir := os.Getenv(showEnv)
	if dir == "" {
		fmt.Fprintln(os.Stderr, "worker: neither", environmenttest.BehaviourEnv, "nor", showEnv, "is set")
		os.Exit(97)
	}
	for _, variable := range os.Environ() {
		fmt.Println(variable)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		panic(err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		fmt.Println(path, string(text), err)
	}
	fmt.Println(os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
	os.Exit(4)
}
