package report

import (
	"maps"
	"slices"
)

// Results are the figures of a comparison. They are what is kept, as JSON; all else is made from them.
type Results struct {
	Date     string // when it was made
	Commit   string // of the product
	Machine  string // what it was made on
	Smoke    bool   // too short to mean anything: nothing is held against the bars
	Rounds   int
	Seconds  float64                         // of each measurement
	Versions map[string]string               // of programs, by name
	Groups   []Group                         // in order
	Figures  map[string][]map[string]float64 // by contender, one item a round
	Failures []string                        `json:",omitempty"` // one for each round of a contender in which something failed
}

// Group is a number of contenders that are compared with each other.
type Group struct {
	Name       string
	Contenders []string
}

// Median returns the middle of the values, or the mean of the two in the middle. It is zero if there are none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// median is that of a contender's figure over all rounds that have it.
func (r *Results) median(contender, figure string) (float64, bool) {
	var all []float64
	for _, round := range r.Figures[contender] {
		if v, ok := round[figure]; ok {
			all = append(all, v)
		}
	}
	return Median(all), len(all) > 0
}

// names are all figures that one of the contenders has.
func (r *Results) names(contenders []string) map[string]bool {
	all := make(map[string]bool)
	for _, c := range contenders {
		for _, round := range r.Figures[c] {
			for name := range maps.Keys(round) {
				all[name] = true
			}
		}
	}
	return all
}
