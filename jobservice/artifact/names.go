package artifact

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

const (
	maxStagedName    = 1024 // bytes
	maxNameComponent = 255  // bytes; the limit of common file systems
)

// stagedName returns the name that an SDK's boot program will write an artifact
// under, "" where the role gives none. We never use it as a path, but boot does:
// a name that would leave its folder is refused.
func stagedName(a *pipepb.ArtifactInformation) (string, error) {
	if a.GetRoleUrn() != urns.ArtifactRoleStagingTo {
		return "", nil
	}
	var role pipepb.ArtifactStagingToRolePayload
	if err := proto.Unmarshal(a.GetRolePayload(), &role); err != nil {
		return "", fault.New(fault.Invalid, "artifact %s: role payload is no ArtifactStagingToRolePayload: %w", describe(a), err)
	}
	name := role.GetStagedName()
	if why := badName(name); why != "" {
		return "", fault.New(fault.Invalid, "artifact with staged name %s: the name %s; it must be a relative path inside the staging folder", clip(name), why)
	}
	return name, nil
}

func badName(name string) string {
	switch {
	case name == "" || name == ".":
		return "is empty"
	case len(name) > maxStagedName:
		return fmt.Sprintf("is longer than %d bytes", maxStagedName)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "has control characters"
	case strings.HasPrefix(name, "/"):
		return "is absolute"
	case !fs.ValidPath(name):
		return `has "", "." or ".." as a component`
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxNameComponent {
			return fmt.Sprintf("has a component longer than %d bytes", maxNameComponent)
		}
	}
	return ""
}

// announced returns the SHA-256 in lower-case hex that a file or url artifact
// announces, "" where there is none, and the last part of its path or URL.
func announced(a *pipepb.ArtifactInformation) (sum, base string, err error) {
	switch a.GetTypeUrn() {
	case urns.ArtifactFile:
		var p pipepb.ArtifactFilePayload
		if err := proto.Unmarshal(a.GetTypePayload(), &p); err != nil {
			return "", "", fault.New(fault.Invalid, "artifact of type %s: type payload is no ArtifactFilePayload: %w", urns.ArtifactFile, err)
		}
		sum, base = p.GetSha256(), path.Base(p.GetPath())
	case urns.ArtifactURL:
		var p pipepb.ArtifactUrlPayload
		if err := proto.Unmarshal(a.GetTypePayload(), &p); err != nil {
			return "", "", fault.New(fault.Invalid, "artifact of type %s: type payload is no ArtifactUrlPayload: %w", urns.ArtifactURL, err)
		}
		sum, base = p.GetSha256(), path.Base(p.GetUrl())
	}
	sum = strings.ToLower(sum)
	if sum != "" && !isSum(sum) {
		return "", "", fault.New(fault.Invalid, "artifact %s: %s is no SHA-256 in hex", describe(a), clip(sum))
	}
	return sum, base, nil
}

// stored describes a blob of ours in place of a. The path is for people and for
// the file name that boot derives from it: only the hash finds the blob again.
func stored(a *pipepb.ArtifactInformation, sum, base string) (*pipepb.ArtifactInformation, error) {
	payload, err := proto.Marshal(&pipepb.ArtifactFilePayload{Path: sum + "/" + harmless(base), Sha256: sum})
	if err != nil {
		return nil, err
	}
	return &pipepb.ArtifactInformation{
		TypeUrn: urns.ArtifactFile, TypePayload: payload,
		RoleUrn: a.GetRoleUrn(), RolePayload: a.GetRolePayload(),
	}, nil
}

// harmless keeps what is sure to be a plain file name on any system.
func harmless(base string) string {
	base = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_', r == '.', r == '+':
			return r
		}
		return '_'
	}, base)
	if len(base) > 100 {
		base = base[len(base)-100:] // the end has the extension
	}
	if strings.Trim(base, "._") == "" {
		return "artifact"
	}
	return base
}

// describe names an artifact in errors.
func describe(a *pipepb.ArtifactInformation) string {
	if a.GetRoleUrn() == urns.ArtifactRoleStagingTo {
		var role pipepb.ArtifactStagingToRolePayload
		if proto.Unmarshal(a.GetRolePayload(), &role) == nil && role.GetStagedName() != "" {
			return clip(role.GetStagedName())
		}
	}
	var file pipepb.ArtifactFilePayload
	if a.GetTypeUrn() == urns.ArtifactFile && proto.Unmarshal(a.GetTypePayload(), &file) == nil {
		return clip(file.GetPath())
	}
	return fmt.Sprintf("of type %s and role %s", clip(a.GetTypeUrn()), clip(a.GetRoleUrn()))
}

// clip quotes s, at most some 100 bytes of it.
func clip(s string) string {
	if len(s) > 100 {
		return fmt.Sprintf("%q… (%d bytes)", s[:100], len(s))
	}
	return fmt.Sprintf("%q", s)
}

func isSum(s string) bool { return len(s) == 64 && isHex(s) }

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && strings.ToLower(s) == s
}
