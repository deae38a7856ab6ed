package ginnel_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// external stands for documents that are published elsewhere: RFCs, drafts and papers.
const external = "external"

// documentNames finds the document that a comment names before a section number.
var documentNames = []struct {
	name     *regexp.Regexp
	document string
}{
	{regexp.MustCompile(`DERP specification|\bDERP \($`), "docs/spec/derp.md"},
	{regexp.MustCompile(`disco specification`), "docs/spec/disco.md"},
	{regexp.MustCompile(`control specification|\bts2021 \($`), "docs/spec/control.md"},
	{regexp.MustCompile(`RFC [0-9]+|\bdraft\b|\b(white)?paper\b`), external},
}

// ownDocument is the document of a package's own protocol. A section number in a comment that names
// no document belongs to it. A package without an entry has that of the directory above it.
var ownDocument = map[string]string{
	"relay":           "docs/spec/derp.md",
	"control":         "docs/spec/control.md",
	"internal/disco":  "docs/spec/disco.md",
	"internal/egress": external,
	"internal/filter": "docs/spec/control.md",
	"internal/snoop":  external,
	"node":            "docs/spec/control.md",
	"transport":       "docs/spec/disco.md",
	"wireguard":       external,
}

const sectionList = `([0-9]+(?:\.[0-9]+)*(?:(?:, and |, | and | to | or )[0-9]+(?:\.[0-9]+)*)*)`

var (
	citedSection  = regexp.MustCompile(`\b[Ss]ections? ` + sectionList)
	citedBriefly  = regexp.MustCompile(`(?:^|\s)\(([0-9]{1,2}\.[0-9]{1,2}(?:(?:, | and | to )[0-9]+(?:\.[0-9]+)*)*)\)`)
	sectionNumber = regexp.MustCompile(`[0-9]+(?:\.[0-9]+)*`)
	heading       = regexp.MustCompile(`(?m)^#{2,3} ([0-9]+(?:\.[0-9]+)*)\.? `)
	link          = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
)

// TestCitations finds each section that a comment, or a specification itself, cites.
func TestCitations(t *testing.T) {
	sections := make(map[string][]string)
	for _, file := range []string{"docs/spec/derp.md", "docs/spec/disco.md", "docs/spec/control.md"} {
		for _, m := range heading.FindAllStringSubmatch(readFile(t, file), -1) {
			sections[file] = append(sections[file], m[1])
		}
	}
	check := func(where, text, own string) {
		for _, c := range citationsIn(text, own) {
			switch {
			case c.document == external:
			case c.document == "":
				t.Errorf("%s: section %s of which document?", where, c.section)
			case !slices.Contains(sections[c.document], c.section):
				t.Errorf("%s: %s has no section %s", where, c.document, c.section)
			}
		}
	}
	files(t, ".go", func(file string) {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		own := ownDocumentOf(path.Dir(file))
		for _, comment := range parsed.Comments {
			check(set.Position(comment.Pos()).String(), comment.Text(), own)
		}
	})
	for file := range sections {
		for _, paragraph := range strings.Split(readFile(t, file), "\n\n") {
			check(file, paragraph, file)
		}
	}
}

// citation is a section of a document; document is empty if the comment does not name one.
type citation struct{ document, section string }

// citationsIn returns what text cites. own is the document of numbers without a name; it is empty
// if there is none, and numbers in parentheses alone are then no citations.
func citationsIn(text, own string) (all []citation) {
	text = strings.Join(strings.Fields(text), " ")
	for _, at := range citedSection.FindAllStringSubmatchIndex(text, -1) {
		document := documentIn(text[max(0, at[0]-80):at[0]])
		if document == "" {
			document = own
		}
		if document == "" {
			document = documentIn(text[:at[0]])
		}
		for _, section := range sectionNumber.FindAllString(text[at[2]:at[3]], -1) {
			all = append(all, citation{document, section})
		}
	}
	if own == "" || own == external {
		return all
	}
	for _, m := range citedBriefly.FindAllStringSubmatch(text, -1) {
		for _, section := range sectionNumber.FindAllString(m[1], -1) {
			all = append(all, citation{own, section})
		}
	}
	return all
}

// documentIn returns the document that text names last, or the empty string.
func documentIn(text string) (document string) {
	last := -1
	for _, d := range documentNames {
		for _, at := range d.name.FindAllStringIndex(text, -1) {
			if at[0] > last {
				last, document = at[0], d.document
			}
		}
	}
	return document
}

func ownDocumentOf(pkg string) string {
	for ; pkg != "."; pkg = path.Dir(pkg) {
		if document, ok := ownDocument[pkg]; ok {
			return document
		}
	}
	return ""
}

// TestCitationsIn holds the reading of comments to examples.
func TestCitationsIn(t *testing.T) {
	const derp, disco, control = "docs/spec/derp.md", "docs/spec/disco.md", "docs/spec/control.md"
	for _, c := range []struct {
		text, own string
		want      []citation
	}{
		{"of the DERP specification, sections 1.6 to 1.8", "", []citation{{derp, "1.6"}, {derp, "1.8"}}},
		{"(control specification, section\n2.6)", disco, []citation{{control, "2.6"}}},
		{"DERP (section 1.8) and ts2021 (section\n2.8)", "", []citation{{derp, "1.8"}, {control, "2.8"}}},
		{"what section 4 says (1.6 to 1.8, 2)", derp, []citation{{derp, "4"}, {derp, "1.6"}, {derp, "1.8"}, {derp, "2"}}},
		{"(RFC 8985, section 6.2), a quarter (section 7.3, step 4)", "", []citation{{external, "6.2"}, {external, "7.3"}}},
		{"section 5 of it", "", []citation{{"", "5"}}},
		{"min(n², 5 s) * uniform(0.5, 1.5)", derp, nil},
	} {
		if got := citationsIn(c.text, c.own); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
	}
}

// TestLinks finds each file that a document links to.
func TestLinks(t *testing.T) {
	files(t, ".md", func(file string) {
		for _, m := range link.FindAllStringSubmatch(readFile(t, file), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
			}
		}
	})
}

// files calls f with each file of the repository, other modules included, that has the extension.
func files(t *testing.T, extension string, f func(file string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != "." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir // the version control, CI
		case !d.IsDir() && filepath.Ext(file) == extension:
			f(filepath.ToSlash(file))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
