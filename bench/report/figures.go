package report

import (
	"maps"
	"slices"
)

// Figures has for each contender, by name, one map per round from the name of a figure to its
// value.
type Figures map[string][]map[string]float64

// Median returns the middle of the values, or the mean of the two in the middle. It is zero if
// there are none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// median returns the median of a contender's figure over all rounds that have it.
func (f Figures) median(contender, figure string) (float64, bool) {
	var all []float64
	for _, round := range f[contender] {
		if v, ok := round[figure]; ok {
			all = append(all, v)
		}
	}
	return Median(all), len(all) > 0
}

// names returns the figures that any of the contenders has.
func (f Figures) names(contenders []string) map[string]bool {
	all := make(map[string]bool)
	for _, c := range contenders {
		for _, round := range f[c] {
			for name := range maps.Keys(round) {
				all[name] = true
			}
		}
	}
	return all
}
