package relay

import "ginnel/relay/internal/derp"

// MaxPacket is the size in bytes of the largest packet that a relay carries (3.1).
const MaxPacket = derp.MaxPacket

// MeshKey is the secret that the servers of one region share (5.1). The zero value means that there
// is none. It does not reveal itself when it is printed or logged.
type MeshKey = derp.MeshKey

// ParseMeshKey reads a mesh key of 64 hex digits; white space around them is ignored.
func ParseMeshKey(s string) (MeshKey, error) { return derp.ParseMeshKey(s) }
