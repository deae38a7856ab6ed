// Package deepstack spares goroutines that live for one connection most of the cost of their
// stacks. A stack starts with 2 KiB and doubles when it is full, each time with all frames moved
// and looked at for pointers; of a short connection that was the eighth part. A goroutine that
// knows that it will go deep has it grown at once, while there is next to nothing on it.
package deepstack

// size is what the way from a proxy down into a network stack, through encryption and to a socket
// takes.
const size = 10 << 10

// Grow makes sure that the caller's goroutine can use some KiB of stack.
//
//go:noinline
func Grow() { touch(0) }

//go:noinline
func touch(i int) byte {
	var frame [size]byte
	frame[i] = 1
	return frame[size-1-i]
}
