package peer

import (
	"debug/buildinfo"
	"path"
)

// Versions are what the programs of the contenders were built from: the module of each, but for
// ours, and the version of Go.
func Versions(dir Programs, contenders []*Contender) map[string]string {
	all := make(map[string]string)
	for _, c := range contenders {
		for _, m := range c.modules {
			for _, p := range m.packages {
				name := path.Base(p)
				info, err := buildinfo.ReadFile(dir.path(name))
				if err != nil {
					continue // it was not built: it is not in the comparison either
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
