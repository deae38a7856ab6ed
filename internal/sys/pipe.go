package sys

// Splice moves n bytes that wait in the TCP socket src to the TCP socket dst through a pipe,
// without copying them to user space (splice(2)). It takes what has arrived and waits only for room
// in dst. It returns fewer bytes and no error if it cannot begin (no descriptor left for a pipe, or
// a portable build): the caller then copies the rest.
func Splice(dst, src RawConn, n int) (done int64, err error) { return spliceAll(dst, src, n) }
