package peer

import (
	"debug/buildinfo"
	"path"
)

// Versions are those of the modules that the programs of the contenders were built from, and of Go.
func Versions(dir Programs, contenders []*Contender) map[string]string {
	all := make(map[string]string)
	for _, c := range contenders {
		for _, m := range c.modules {
			info, err := buildinfo.ReadFile(dir.path(path.Base(m.packages[0])))
			if err != nil {
				continue // it was not built: it is not in the comparison either
			}
			all["Go"] = info.GoVersion
			if m.dir != ginnelModule.dir {
				all[info.Main.Path] = info.Main.Version
			}
		}
	}
	return all
}
