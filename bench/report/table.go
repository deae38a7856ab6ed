package report

import (
	"slices"
	"strings"
	"unicode/utf8"
)

func sorted(n []int) []int {
	slices.Sort(n)
	return slices.Compact(n)
}

// missing is the cell of a missing figure.
const missing = "-"

// table is a table of cells by line. The first line is the header.
type table [][]string

// table makes the table of a group.
func (r *Results) table(g Group) table {
	t := table{append([]string{"median of " + plural(r.Rounds, "round")}, g.Contenders...)}
	for _, row := range rows(r.Figures.names(g.Contenders)) {
		line := []string{row.title}
		for _, c := range g.Contenders {
			cell := missing
			if v, ok := r.Figures.median(c, row.figure); ok {
				cell = show(v)
			}
			line = append(line, cell)
		}
		t = append(t, line)
	}
	return t
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return thousands(int64(n)) + " " + noun + "s"
}

// text aligns the columns: the first to the left, the others to the right.
func (t table) text() string {
	width := make([]int, len(t[0]))
	for _, line := range t {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, line := range t {
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			switch {
			case i == 0 && len(line) > 1:
				b.WriteString(cell + pad)
			case i == 0:
				b.WriteString(cell)
			default:
				b.WriteString("  " + pad + cell)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// markdown formats the table in Markdown.
func (t table) markdown() string {
	var b strings.Builder
	for n, line := range t {
		b.WriteString("| " + strings.Join(line, " | ") + " |\n")
		if n == 0 {
			b.WriteString("|---|" + strings.Repeat("---:|", len(line)-1) + "\n")
		}
	}
	return b.String()
}

// Text returns the report for a terminal.
func (r *Results) Text() string {
	var b strings.Builder
	for _, g := range r.Groups {
		b.WriteString(g.Name + "\n" + r.table(g).text() + "\n")
	}
	if v := r.verdicts(); len(v) > 1 && !r.Smoke {
		b.WriteString("bars\n" + v.text())
	}
	return b.String()
}
