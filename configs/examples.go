package configs

import "embed"

// Examples holds a documented file of each kind: examples/up.yaml and examples/wireguard.conf.
//
//go:embed examples
var Examples embed.FS
