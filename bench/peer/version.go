package peer

import (
	"debug/buildinfo"
	"path"
)

// Versions returns the Go version of each program, and for programs that are not ours also the
// module version.
func Versions(dir Programs, contenders []*Contender) map[string]string {
	all := make(map[string]string)
	for _, c := range contenders {
		for _, m := range c.modules {
			for _, p := range m.packages {
				name := path.Base(p)
				info, err := buildinfo.ReadFile(dir.path(name))
				if err != nil {
					continue // not built, so not in the comparison
				}
				all[name] = info.GoVersion
				if m.dir != ginnelModule.dir {
					all[name] = info.Main.Path + " " + info.Main.Version + ", " + info.GoVersion
				}
			}
		}
	}
	return all
}
