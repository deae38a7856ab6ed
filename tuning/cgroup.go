package tuning

import (
	"io/fs"
	"iter"
	"path"
	"strings"
)

// groupLimits yields the content of a controller's limit file for each control group that this
// process is in, and for all groups above it. controller and version1 are the names of the
// controller and its file in version 1 of control groups, version2 is the file in version 2.
//
// In a container /proc/self/cgroup may show the path on the host, of which only the root is
// mounted. Therefore files that do not exist are skipped, and the way up is walked to the end.
func groupLimits(system fs.FS, controller, version1, version2 string) iter.Seq[string] {
	return func(yield func(string) bool) {
		text, err := fs.ReadFile(system, "proc/self/cgroup")
		if err != nil {
			return
		}
		for line := range strings.Lines(string(text)) {
			id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
			controllers, group, _ := strings.Cut(rest, ":")
			root, file := "sys/fs/cgroup", version2
			switch {
			case strings.Contains(","+controllers+",", ","+controller+","):
				root, file = path.Join(root, controller), version1
			case id != "0":
				continue
			}
			for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
				limit, err := fs.ReadFile(system, path.Join(root, dir, file))
				if err == nil && !yield(strings.TrimSpace(string(limit))) {
					return
				}
				if dir == "/" {
					break
				}
			}
		}
	}
}

// groupTimeLimited reports whether a control group limits the processor time of its processes.
func groupTimeLimited(system fs.FS) bool {
	for text := range groupLimits(system, "cpu", "cpu.cfs_quota_us", "cpu.max") {
		// No limit is "max 100000" in version 2, and -1 in version 1.
		if quota, _, _ := strings.Cut(text, " "); quota != "max" && !strings.HasPrefix(quota, "-") {
			return true
		}
	}
	return false
}
