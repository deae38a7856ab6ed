package report

// Run describes how a comparison was made.
type Run struct {
	Date     string
	Commit   string // of the product
	Machine  string // processors, kernel and load average
	Smoke    bool   // a run too short to compare its figures with the bars
	Rounds   int
	Seconds  float64           // of each measurement
	Versions map[string]string // of programs, by name
	Failures []string          `json:",omitempty"` // one for each failed round of a contender
}

// Results are the figures of a comparison on the switch. They are kept as JSON; tables, bars and
// chart are made from them.
type Results struct {
	Run
	Groups  []Group // in order
	Figures Figures
}

// Group is a set of contenders that are compared with each other.
type Group struct {
	Name       string
	Contenders []string
}
