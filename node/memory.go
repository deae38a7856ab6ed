package node

// This file cuts a budget of memory into the bounds of what takes the most of it.

const (
	// fixedMemory is about what a node takes that carries nothing, the program's file included.
	fixedMemory = 20 << 20

	minBufferMemory = 2 << 20

	// Below smallMemory what is kept for batches is too much of the whole.
	smallMemory = 64 << 20
	smallBatch  = 16

	// handshakeMemory is what a proxy's client takes that has not asked for anything yet,
	// associationMemory what one of UDP takes.
	handshakeMemory   = 16 << 10
	associationMemory = 128 << 10

	// usualAssociations is how many of UDP there are at the most, each with buffers of the system's
	// that count as the node's.
	usualAssociations = 256
	minSocketBuffer   = 64 << 10
	maxSocketBuffer   = 1 << 20
)

// buffers is what connections in the mesh may buffer. As much again is left to the garbage that
// they make.
func (c *Config) buffers() int {
	if c.Memory == 0 {
		return 0
	}
	return int(max((c.Memory-fixedMemory)/2, minBufferMemory))
}

// maxHandshakes has the half-open connections of the proxy take no more than an eighth of the
// buffers, as long as it remains usable; 0 is the usual.
func (c *Config) maxHandshakes() int { return c.upTo(1024, handshakeMemory) }

func (c *Config) maxAssociations() int {
	if c.Associations > 0 {
		return c.Associations
	}
	return c.upTo(usualAssociations, associationMemory)
}

// socketBuffer has all associations together keep about as much in the system's buffers as
// connections in the mesh do; 0 is the usual.
func (c *Config) socketBuffer() int {
	if c.Memory == 0 {
		return 0
	}
	return max(minSocketBuffer, min(c.buffers()/usualAssociations, maxSocketBuffer))
}

func (c *Config) upTo(usual, size int) int {
	if c.Memory == 0 {
		return 0
	}
	return max(usual/2, min(usual, c.buffers()/8/size))
}

// batch is how many packets leave in one call; 0 is the usual.
func (c *Config) batch() int {
	if c.Memory == 0 || c.Memory >= smallMemory {
		return 0
	}
	return smallBatch
}
