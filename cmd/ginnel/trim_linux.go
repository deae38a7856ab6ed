package main

import (
	"encoding/binary"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// trimProgram gives back the pages of the program's own file that it has read, most of them to
// start: those that are needed again come back from the system's cache. It is a courtesy, so errors
// do not matter.
func trimProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil || !isAtFixedAddress(program) {
		return
	}
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5] != program || !strings.HasPrefix(fields[1], "r-") {
			continue // what can be written to is not only in the file
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && start < end {
			syscall.RawSyscall(syscall.SYS_MADVISE, uintptr(start), uintptr(end-start), syscall.MADV_DONTNEED)
		}
	}
}

// isAtFixedAddress reports whether an ELF file is not relocated when it is loaded: what relocation
// has changed is only in memory, also where it can no longer be written to.
func isAtFixedAddress(program string) bool {
	f, err := os.Open(program)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [18]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return false
	}
	const typeExec = 2 // ET_EXEC
	return string(head[:4]) == "\x7fELF" && binary.NativeEndian.Uint16(head[16:]) == typeExec
}
