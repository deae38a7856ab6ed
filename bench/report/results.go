package report

// Run says of a comparison what it was made of.
type Run struct {
	Date     string // when it was made
	Commit   string // of the product
	Machine  string // what it was made on
	Smoke    bool   // too short to mean anything: nothing is held against the bars
	Rounds   int
	Seconds  float64           // of each measurement
	Versions map[string]string // of programs, by name
	Failures []string          `json:",omitempty"` // one for each round of a contender in which something failed
}

// Results are the figures of a comparison on the switch. They are what is kept, as JSON; all else is made from them.
type Results struct {
	Run
	Groups  []Group // in order
	Figures Figures
}

// Group is a number of contenders that are compared with each other.
type Group struct {
	Name       string
	Contenders []string
}
