// Package gosdk is an empty package: its module names what the tests of the Beam
// Go SDK need to compile. See build.sh.
package gosdk

import _ "github.com/apache/beam/sdks/v2/go/pkg/beam" // pins the SDK's version
