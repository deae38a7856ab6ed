package configs

import "embed"

// Examples contains a documented example of each kind of file, such as examples/up.yaml.
//
//go:embed examples
var Examples embed.FS
