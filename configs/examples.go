package configs

import "embed"

// Examples holds a documented file of each kind, such as examples/up.yaml.
//
//go:embed examples
var Examples embed.FS
