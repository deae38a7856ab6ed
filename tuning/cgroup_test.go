package tuning

import (
	"testing"
	"testing/fstest"
)

// A limit of any group on the way up counts, in both versions of control groups.
func TestGroupTimeLimited(t *testing.T) {
	for name, c := range map[string]struct {
		files   map[string]string
		limited bool
	}{
		"no groups": {nil, false},
		"no limit": {map[string]string{
			"proc/self/cgroup":        "0::/a\n",
			"sys/fs/cgroup/a/cpu.max": "max 100000\n",
		}, false},
		"limited": {map[string]string{
			"proc/self/cgroup":        "0::/a\n",
			"sys/fs/cgroup/a/cpu.max": "150000 100000\n",
		}, true},
		"a container": {map[string]string{
			"proc/self/cgroup":      "0::/\n",
			"sys/fs/cgroup/cpu.max": "50000 100000\n",
		}, true},
		"a slice above": {map[string]string{
			"proc/self/cgroup":          "0::/a/b\n",
			"sys/fs/cgroup/a/cpu.max":   "50000 100000\n",
			"sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
		}, true},
		"no limit, version 1": {map[string]string{
			"proc/self/cgroup":                     "4:cpu,cpuacct:/a\n",
			"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
		}, false},
		"limited by version 1": {map[string]string{
			"proc/self/cgroup":                     "4:cpu,cpuacct:/a\n0::/\n",
			"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000\n",
		}, true},
		"another's limit": {map[string]string{
			"proc/self/cgroup":        "0::/a\n",
			"sys/fs/cgroup/b/cpu.max": "50000 100000\n",
		}, false},
	} {
		system := fstest.MapFS{}
		for file, text := range c.files {
			system[file] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := groupTimeLimited(system); got != c.limited {
			t.Errorf("%s: %v", name, got)
		}
	}
}
