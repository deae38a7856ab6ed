package node

import "testing"

// The socket buffers of the host follow the memory budget, within bounds.
func TestSocketBuffer(t *testing.T) {
	const mb = 1 << 20
	for memory, want := range map[int64]int{0: 0, 24 * mb: 64 << 10, 84 * mb: 128 << 10, 640 * mb: mb} {
		if got := (&Config{Memory: memory}).socketBuffer(); got != want {
			t.Errorf("with %d MiB: %d bytes, want %d", memory/mb, got, want)
		}
	}
}
