package ginnel_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// The rules of the house that need more than imports: who makes system calls, and how large a
// struct may be.

// sysPackage is the only package of the product that makes system calls itself.
const sysPackage = "internal/sys"

// testSupport are packages that only tests import. They may make system calls of their own.
var testSupport = []string{"internal/netem", "internal/lab", "internal/simnet"}

// maySyscall reports whether a package other than sysPackage may name this member of package
// syscall: error and signal numbers.
func maySyscall(name string) bool {
	return name == "Errno" || name == "Signal" || strings.HasPrefix(name, "E") && name == strings.ToUpper(name) ||
		strings.HasPrefix(name, "SIG") && name == strings.ToUpper(name)
}

func TestSystemCallsHaveOneRoom(t *testing.T) {
	sources(t, func(file string, text []byte) {
		pkg := path.Dir(file)
		if pkg == sysPackage || strings.HasSuffix(file, "_test.go") || slices.Contains(testSupport, pkg) {
			return
		}
		parsed := parse(t, file, text)
		for _, spec := range parsed.Imports {
			switch imported, _ := strconv.Unquote(spec.Path.Value); {
			case imported == "unsafe", imported == "golang.org/x/sys", strings.HasPrefix(imported, "golang.org/x/sys/"):
				t.Errorf("%s imports %s: only %s may", file, imported, sysPackage)
			}
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "syscall" && x.Obj == nil && !maySyscall(s.Sel.Name) {
				t.Errorf("%s uses syscall.%s: only %s may", file, s.Sel.Name, sysPackage)
			}
			return true
		})
	})
}

func TestMaySyscall(t *testing.T) {
	for name, want := range map[string]bool{
		"EAGAIN": true, "EHOSTUNREACH": true, "Errno": true, "SIGTERM": true, "Signal": true,
		"RawSyscall": false, "Exec": false, "EpollWait": false, "SysProcAttr": false, "Mmap": false, "SOCK_STREAM": false,
	} {
		if got := maySyscall(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

// mostFields is the size of the largest struct that one can hold in mind.
const mostFields = 20

// wireStructs are larger because a protocol of others has so many fields in one message, or a
// configuration so many settings.
var wireStructs = map[string][]string{
	"control": {"MapResponse", "Node", "Hostinfo"},
	"node":    {"Config"},
}

func TestStructSize(t *testing.T) {
	sources(t, func(file string, text []byte) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		ast.Inspect(parse(t, file, text), func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			if n := s.Fields.NumFields(); n > mostFields && !slices.Contains(wireStructs[path.Dir(file)], spec.Name.Name) {
				t.Errorf("%s: struct %s has %d fields, more than %d", file, spec.Name.Name, n, mostFields)
			}
			return true
		})
	})
}

func parse(t *testing.T, file string, text []byte) *ast.File {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Lines that people can read beside each other: code up to 120 columns and comments up to 100.
// A tab counts one. String literals do not count, because they cannot always be broken.
const (
	mostCode    = 120
	mostComment = 100
)

var stringLiteral = regexp.MustCompile("\"(\\\\.|[^\"\\\\])*\"|`[^`]*`")

func TestLineLength(t *testing.T) {
	sources(t, func(file string, text []byte) {
		inRaw := false // within a string of several lines
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			line = strings.TrimRight(line, "\n")
			wasRaw := inRaw
			if strings.Count(stringLiteral.ReplaceAllString(line, ""), "`")%2 == 1 {
				inRaw = !inRaw
			}
			if wasRaw || inRaw {
				continue
			}
			trimmed := strings.TrimSpace(line)
			switch size := utf8.RuneCountInString(line); {
			case strings.HasPrefix(trimmed, "//go:"):
			case strings.HasPrefix(trimmed, "//"):
				if size > mostComment && strings.Contains(trimmed[2:], " ") && !strings.HasPrefix(trimmed, "//\t") {
					t.Errorf("%s:%d: the comment has %d columns, more than %d", file, n, size, mostComment)
				}
			case utf8.RuneCountInString(stringLiteral.ReplaceAllString(line, `""`)) > mostCode:
				t.Errorf("%s:%d: the line has %d columns, more than %d", file, n, size, mostCode)
			}
		}
	})
}
