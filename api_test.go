package ginnel_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The exported API of the packages that other modules can import is written down in docs/api, so
// that a change of it is seen in review.

var updateAPI = flag.Bool("update-api", false, "write docs/api anew")

const apiDir = "docs/api"

// publicPackages lists the directories of the packages that other modules can import.
func publicPackages(t *testing.T) []string {
	t.Helper()
	seen := make(map[string]bool)
	sources(t, func(file string, _ []byte) {
		pkg := path.Dir(file)
		if pkg != "." && !strings.HasSuffix(file, "_test.go") && !strings.HasPrefix(pkg, "cmd/") &&
			!slices.Contains(strings.Split(pkg, "/"), "internal") {
			seen[pkg] = true
		}
	})
	var all []string
	for pkg := range seen {
		all = append(all, pkg)
	}
	slices.Sort(all)
	return all
}

// exportedAPI parses a package and strips everything that another module cannot name.
func exportedAPI(t *testing.T, dir string) (*token.FileSet, []*ast.File) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".go" || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(f)
		f.Decls = slices.DeleteFunc(f.Decls, func(d ast.Decl) bool {
			fn, ok := d.(*ast.FuncDecl)
			if ok {
				fn.Body = nil
			}
			return ok && fn.Recv != nil && !ast.IsExported(receiver(fn))
		})
		files = append(files, f)
	}
	return fset, files
}

// receiver returns the name of the type that a method belongs to.
func receiver(fn *ast.FuncDecl) string {
	x := fn.Recv.List[0].Type
	for {
		switch e := x.(type) {
		case *ast.StarExpr:
			x = e.X
		case *ast.IndexExpr: // of a generic type
			x = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

func TestAPIIsWrittenDown(t *testing.T) {
	var names []string
	for _, pkg := range publicPackages(t) {
		fset, files := exportedAPI(t, pkg)
		seen := make(map[string]bool) // a declaration in files of several systems counts once
		var decls []string
		for _, f := range files {
			for _, d := range f.Decls {
				if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.IMPORT {
					continue
				}
				var b bytes.Buffer
				if err := printer.Fprint(&b, fset, d); err != nil {
					t.Fatal(err)
				}
				if text := b.String(); !seen[text] {
					seen[text] = true
					decls = append(decls, text)
				}
			}
		}
		slices.Sort(decls)
		got := "package " + pkg + "\n\n" + strings.Join(decls, "\n") + "\n"
		name := strings.ReplaceAll(pkg, "/", "_") + ".txt"
		names = append(names, name)
		file := filepath.Join(apiDir, name)
		if *updateAPI {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil || string(want) != got {
			t.Errorf("the API of package %s is not what %s says (%v): 'go test . -run API -update-api' writes it; "+
				"look at the difference before you commit it", pkg, file, err)
		}
	}
	entries, err := os.ReadDir(apiDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			t.Errorf("%s/%s belongs to no package", apiDir, e.Name())
		}
	}
}

// Every type in a public signature can be named by a program that uses the package.
func TestAPIIsImportable(t *testing.T) {
	for _, pkg := range publicPackages(t) {
		fset, files := exportedAPI(t, pkg)
		for _, f := range files {
			internal := make(map[string]string) // by the name in the file
			for _, spec := range f.Imports {
				imported := strings.Trim(spec.Path.Value, `"`)
				if !slices.Contains(strings.Split(imported, "/"), "internal") {
					continue
				}
				name := path.Base(imported)
				if spec.Name != nil {
					name = spec.Name.Name
				}
				internal[name] = imported
			}
			for _, d := range f.Decls {
				ast.Inspect(d, func(n ast.Node) bool {
					if s, ok := n.(*ast.SelectorExpr); ok {
						if x, ok := s.X.(*ast.Ident); ok && internal[x.Name] != "" && !isValue(d) && !isAlias(d) {
							t.Errorf("%v: the API names %s.%s, and other modules cannot import %s", fset.Position(s.Pos()), x.Name,
								s.Sel.Name, internal[x.Name])
						}
					}
					return true
				})
			}
		}
	}
}

// isAlias reports whether a declaration gives a type another name, which other modules can use.
func isAlias(d ast.Decl) bool {
	g, ok := d.(*ast.GenDecl)
	if !ok || g.Tok != token.TYPE {
		return false
	}
	for _, s := range g.Specs {
		if !s.(*ast.TypeSpec).Assign.IsValid() {
			return false
		}
	}
	return true
}

// isValue reports whether a declaration gives constants or variables, whose initial values are no
// part of the API.
func isValue(d ast.Decl) bool {
	g, ok := d.(*ast.GenDecl)
	return ok && (g.Tok == token.CONST || g.Tok == token.VAR)
}
