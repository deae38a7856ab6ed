package tuning

import (
	"testing"
	"testing/fstest"
)

// The default follows the machine and the control groups.
func TestDefaultMemory(t *testing.T) {
	const plenty = "MemTotal:       16777216 kB\nMemFree:        1 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing known": {nil, 640 << 20},
		"a large machine": {map[string]string{
			"proc/meminfo":     plenty,
			"proc/self/cgroup": "0::/\n",
		}, 640 << 20},
		"a small machine": {map[string]string{"proc/meminfo": "MemTotal:  262144 kB\n"}, 64 << 20},
		"a tiny machine":  {map[string]string{"proc/meminfo": "MemTotal:  32768 kB\n"}, MinMemory},
		"no limit, version 2": {map[string]string{
			"proc/meminfo":               plenty,
			"proc/self/cgroup":           "0::/a\n",
			"sys/fs/cgroup/a/memory.max": "max\n",
		}, 640 << 20},
		"no limit, version 1": {map[string]string{
			"proc/self/cgroup": "4:memory:/a\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
		}, 640 << 20},
		"a container": {map[string]string{
			"proc/meminfo":             plenty,
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "134217728\n",
		}, 64 << 20},
		"a slice above": {map[string]string{
			"proc/self/cgroup":                  "0::/job/step\n",
			"sys/fs/cgroup/job/memory.max":      "134217728\n",
			"sys/fs/cgroup/job/step/memory.max": "max\n",
		}, 64 << 20},
		"the least of several": {map[string]string{
			"proc/self/cgroup":                  "0::/job/step\n",
			"sys/fs/cgroup/job/memory.max":      "134217728\n",
			"sys/fs/cgroup/job/step/memory.max": "268435456\n",
		}, 64 << 20},
		"version 1, path of the host": {map[string]string{
			"proc/self/cgroup":                           "5:cpu,memory:/docker/abc\n0::/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "134217728\n",
		}, 64 << 20},
		"a tight container": {map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "33554432\n",
		}, MinMemory},
		"malformed": {map[string]string{
			"proc/meminfo":             "MemTotal: many kB\n",
			"proc/self/cgroup":         "nonsense\n0::\n::::\n",
			"sys/fs/cgroup/memory.max": "-1\n",
		}, 640 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			system := make(fstest.MapFS)
			for file, text := range c.files {
				system[file] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := budget(0, system); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// A budget that was asked for is not changed.
func TestBudget(t *testing.T) {
	if got := budget(MinMemory, make(fstest.MapFS)); got != MinMemory {
		t.Errorf("got %d, want %d", got, MinMemory)
	}
}
