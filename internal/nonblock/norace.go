//go:build !race && unix

package nonblock

func beforeWrite()      {}
func afterRead(uintptr) {}
