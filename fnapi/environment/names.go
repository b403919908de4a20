package environment

import (
	"maps"
	"path"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

const (
	// sdkBase begins the capability that tells the image of an environment's SDK.
	sdkBase = "beam:version:sdk_base:"
	// typescriptDefault is the URN of environments that the TypeScript SDK leaves open.
	typescriptDefault = "js_default"
)

// sdkImages are what the names of Beam's own images begin with, by SDK.
var sdkImages = []struct{ prefix, sdk string }{
	{"beam_java", "java"}, {"beam_python", "python"}, {"beam_go", "go"}, {"beam_typescript", "typescript"},
}

// keysOf returns the keys by which an override may be about an environment, the most particular
// first: its id, its images with and without tag, its SDK.
func keysOf(id string, env *pipepb.Environment) []string {
	keys := []string{id}
	add := func(key string) {
		if key != "" && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	images := imagesOf(env)
	for _, image := range images {
		add(image)
		add(untagged(image))
	}
	add(sdkOf(env, images))
	return keys
}

// imagesOf returns the images that an environment tells of: that it asks for, those of its
// alternatives, that of its SDK.
func imagesOf(env *pipepb.Environment) (images []string) {
	if env.GetUrn() == URNDocker {
		var p pipepb.DockerPayload
		if proto.Unmarshal(env.GetPayload(), &p) == nil && p.GetContainerImage() != "" {
			images = append(images, p.GetContainerImage())
		}
	}
	for _, c := range env.GetCapabilities() {
		if image, ok := strings.CutPrefix(c, sdkBase); ok {
			images = append(images, strings.TrimPrefix(image, "go:"))
		}
	}
	alternatives, _ := alternativesOf(env) // what can't be read names nothing
	for _, a := range alternatives {
		if a.GetUrn() != URNAnyOf {
			images = append(images, imagesOf(a)...)
		}
	}
	return images
}

// ownImage returns the image to start an environment in a container from, "" if none is known.
func ownImage(env *pipepb.Environment) string {
	if images := imagesOf(env); len(images) > 0 {
		return images[0]
	}
	return ""
}

// untagged returns the name of an image without its tag and digest.
func untagged(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image
}

// sdkOf returns the name of an environment's SDK, "" if it does not tell.
func sdkOf(env *pipepb.Environment, images []string) string {
	if env.GetUrn() == typescriptDefault {
		return "typescript"
	}
	for _, image := range images {
		for _, s := range sdkImages {
			if strings.HasPrefix(path.Base(untagged(image)), s.prefix) {
				return s.sdk
			}
		}
	}
	return ""
}

// Describe names the environments of a pipeline by what an override may call them.
func Describe(envs map[string]*pipepb.Environment) string {
	var all []string
	for _, id := range slices.Sorted(maps.Keys(envs)) {
		all = append(all, strings.Join(keysOf(id, envs[id]), " or "))
	}
	return strings.Join(all, "; ")
}

// describe names an environment as far as its author will know it.
func describe(env *pipepb.Environment) string {
	if env.GetUrn() == "" {
		return "without URN"
	}
	if image := ownImage(env); image != "" && env.GetUrn() == URNDocker {
		return env.GetUrn() + " (image " + image + ")"
	}
	return env.GetUrn()
}
