package configs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"ginnel/internal/safetext"
)

// Kind is the kind of value that a key has. The text of a value is checked by the flag of that
// name.
type Kind int

const (
	Scalar Kind = iota // one value
	List               // any number of values, for a flag that may be repeated; one value needs no list
)

// Setting is a key of a configuration file with its values.
type Setting struct {
	Key    string
	At     Position // of the key
	Values []Value  // exactly one for a Scalar
}

// Value is a value as it is written in the file, without quotes: 007 stays 007. It may be a secret.
type Value struct {
	Text string
	At   Position
}

// Load reads and parses the YAML file of --config; see Parse.
func Load(path string, known map[string]Kind) ([]Setting, error) {
	b, err := readFile(path, maxYAML)
	if err != nil {
		return nil, err
	}
	return Parse(path, b, known)
}

// Parse parses b, the contents of the file called name: one YAML mapping with keys of known. It
// returns the settings in the order of the file. Unknown and repeated keys, values of the wrong
// kind, empty values, anchors, tags and a second document are mistakes. An error is of type
// Problems.
func Parse(name string, b []byte, known map[string]Kind) ([]Setting, error) {
	r := yamlReader{file: name}
	var settings []Setting
	keys := slices.AppendSeq([]string{}, maps.Keys(known)) // not nil, which would allow every key
	err := r.read(b, keys, func(key string, at Position, value ast.Node) {
		settings = append(settings, Setting{key, at, r.values(key, known[key], value)})
	})
	if err != nil {
		return nil, err
	}
	return settings, nil
}

// syntaxProblem returns the problem for an error of the YAML parser, without the excerpt of the
// file that the parser would add: it may contain secrets.
func syntaxProblem(name string, err error) Problems {
	var problems Problems
	at, message := Position{File: name}, "is not YAML"
	if syntax, ok := errors.AsType[yaml.Error](err); ok {
		at, message = position(name, syntax.GetToken()), safetext.Line(syntax.GetMessage(), maxMessage)
	}
	problems.add(at, "%s", message)
	return problems
}

// yamlReader walks the syntax tree of one file and collects its problems.
type yamlReader struct {
	file     string
	problems Problems
}

// eachKey is called once with each key of a mapping.
type eachKey func(key string, at Position, value ast.Node)

// read parses b, the contents of the file: one document, a mapping with keys of known. An error is
// of type Problems.
func (r *yamlReader) read(b []byte, known []string, each eachKey) error {
	s, err := text(r.file, b, maxYAML)
	if err != nil {
		return err
	}
	s = strings.ReplaceAll(s, "\r\n", "\n") // the parser counts a line that ends in CRLF twice
	file, err := parser.ParseBytes([]byte(s), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return syntaxProblem(r.file, err)
	}
	r.documents(file.Docs, known, each)
	if len(r.problems) > 0 {
		return r.problems
	}
	return nil
}

func (r *yamlReader) documents(docs []*ast.DocumentNode, known []string, each eachKey) {
	var seen bool
	for _, doc := range docs {
		if _, ok := doc.Body.(*ast.DirectiveNode); ok {
			continue // %YAML 1.2
		}
		if seen {
			r.problems.add(position(r.file, doc.Start), "a second document starts here, want one")
			return
		}
		seen = true
		switch body := doc.Body.(type) {
		case nil: // only comments
		case ast.MapNode:
			r.mapping(body, known, each)
		default:
			r.problems.add(r.at(body), "is not a mapping of keys to values, one \"key: value\" a line")
		}
	}
}

// mapping reads the keys of a mapping. Keys must be in known, unless known is nil.
func (r *yamlReader) mapping(body ast.MapNode, known []string, each eachKey) {
	lines := make(map[string]int) // of the keys so far
	for entries := body.MapRange(); entries.Next(); {
		node := entries.KeyValue()
		key, at := node.Key.GetToken().Value, r.at(node.Key)
		line, again := lines[key]
		switch _, plain := node.Key.(ast.ScalarNode); {
		case !plain || node.Key.Type() == ast.MergeKeyType:
			r.problems.add(at, "key is not a plain word")
		case known != nil && !slices.Contains(known, key):
			r.problems.add(at, "%s: is not a known key%s", quote(key), suggestion(key, known))
		case again:
			r.problems.add(at, "%s: is given a second time, the first is on line %d", key, line)
		default:
			lines[key] = at.Line
			each(key, at, node.Value)
		}
	}
}

// values reads the value of a key, or the list of its values.
func (r *yamlReader) values(key string, kind Kind, node ast.Node) []Value {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		return r.appendValue(nil, key, node)
	}
	if kind != List {
		r.problems.add(r.at(node), "%s: is a list, want a single value", key)
		return nil
	}
	var values []Value
	for i, item := range list.Values {
		values = r.appendValue(values, fmt.Sprintf("%s[%d]", key, i), item)
	}
	return values
}

// appendValue reads one value. path names it in problems, in the notation of yq.
func (r *yamlReader) appendValue(values []Value, path string, node ast.Node) []Value {
	var text string
	switch node := node.(type) {
	case *ast.NullNode:
		r.problems.add(r.at(node), "%s: has no value", path)
		return values
	case *ast.AliasNode, *ast.AnchorNode, *ast.TagNode:
		r.problems.add(r.at(node), "%s: has an alias, anchor or tag; a value that starts with *, & or ! needs quotes", path)
		return values
	case *ast.LiteralNode:
		text = node.Value.Value
	case ast.ScalarNode:
		text = node.GetToken().Value
	case *ast.SequenceNode:
		r.problems.add(r.at(node), "%s: is a list, want a single value", path)
		return values
	default:
		r.problems.add(r.at(node), "%s: is a mapping, want a single value", path)
		return values
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		r.problems.add(r.at(node), "%s: has a line break or control character in its value", path)
		return values
	}
	return append(values, Value{text, r.at(node)})
}

// suggestion suggests the known key that differs from key only in case, dashes and underscores.
func suggestion(key string, known []string) string {
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)) }
	for _, k := range known {
		if plain(k) == plain(key) {
			return fmt.Sprintf(", did you mean %q?", k)
		}
	}
	return ""
}

// at returns the position at which a node starts. For a block mapping that is its first key,
// because the mapping's own token is the first colon.
func (r *yamlReader) at(node ast.Node) Position {
	if mapping, ok := node.(*ast.MappingNode); ok && !mapping.IsFlowStyle && len(mapping.Values) > 0 {
		node = mapping.Values[0].Key
	}
	return position(r.file, node.GetToken())
}

func position(file string, t *token.Token) Position {
	if t == nil || t.Position == nil {
		return Position{File: file}
	}
	return Position{file, t.Position.Line, t.Position.Column}
}
