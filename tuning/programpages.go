package tuning

import (
	"encoding/binary"
	"io"
	"os"
	"strconv"
	"strings"

	"ginnel/internal/sys"
)

// trimProgram gives back the resident pages of the program's own file, most of which were needed to
// start only. Pages that are needed again come from the page cache. Errors do not matter, because
// the process works without this.
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
			continue // writable pages differ from the file
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && start < end {
			sys.DiscardPages(uintptr(start), uintptr(end))
		}
	}
}

// isAtFixedAddress reports whether an ELF file is not relocated when it is loaded. What relocation
// has written is in memory only, also where the pages are read-only afterwards.
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
