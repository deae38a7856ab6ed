package configs

import (
	"strings"
	"unicode/utf8"
)

// section is a kind of section of a wg-quick file.
type section int

const (
	noSection      section = iota // before the first header
	unknownSection                // only its header is reported; its lines are skipped
	interfaceSection
	peerSection
)

func (s section) String() string {
	switch s {
	case interfaceSection:
		return "[Interface]"
	case peerSection:
		return "[Peer]"
	}
	return "[?]"
}

// entry is one "Key = Value" line.
type entry struct {
	key   string // as written, without white space
	keyAt Position
	value string // without comment and surrounding white space; may contain a secret
	at    Position
}

// lineScanner splits a wg-quick file into lines like config_read_line of wg: a # starts a comment,
// and white space has no meaning anywhere.
type lineScanner struct {
	file string
	rest string
	line int
}

// next returns the next line that is not blank, without its comment. It returns false at the end.
func (s *lineScanner) next() (string, bool) {
	for s.rest != "" {
		var line string
		line, s.rest, _ = strings.Cut(s.rest, "\n")
		s.line++
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimFunc(line, isSpace) != "" {
			return line, true
		}
	}
	return "", false
}

// at returns the position of a byte offset in line.
func (s *lineScanner) at(line string, offset int) Position {
	return Position{s.file, s.line, utf8.RuneCountInString(line[:offset]) + 1}
}

// start returns the position of the first character of line that is not white space.
func (s *lineScanner) start(line string) Position {
	return s.at(line, len(line)-len(strings.TrimLeftFunc(line, isSpace)))
}

// entry splits a line at its first equals sign.
func (s *lineScanner) entry(line string) (entry, bool) {
	name, value, ok := strings.Cut(line, "=")
	if !ok {
		return entry{}, false
	}
	trimmed := strings.TrimLeftFunc(value, isSpace)
	return entry{
		key:   squeeze(name),
		keyAt: s.start(line),
		value: strings.TrimRightFunc(trimmed, isSpace),
		at:    s.at(line, len(line)-len(trimmed)),
	}, true
}

// header returns the section that line opens, and false if it opens none.
func header(line string) (section, bool) {
	name := squeeze(line)
	switch {
	case !strings.HasPrefix(name, "["):
		return noSection, false
	case strings.EqualFold(name, "[Interface]"):
		return interfaceSection, true
	case strings.EqualFold(name, "[Peer]"):
		return peerSection, true
	}
	return unknownSection, true
}

// items splits the value of e at separators, which are single bytes. It omits empty parts.
func (e entry) items(separator func(rune) bool) []entry {
	var items []entry
	for rest, column := e.value, e.at.Column; rest != ""; {
		part, after := rest, ""
		if i := strings.IndexFunc(rest, separator); i >= 0 {
			part, after = rest[:i], rest[i+1:]
		}
		text := strings.TrimLeftFunc(part, isSpace)
		if text != "" {
			item := entry{e.key, e.keyAt, strings.TrimRightFunc(text, isSpace), e.at}
			item.at.Column = column + len(part) - len(text) // a white space character is one byte
			items = append(items, item)
		}
		rest, column = after, column+utf8.RuneCountInString(part)+1
	}
	return items
}

// isSpace is isspace of C, the definition of white space in wg and bash.
func isSpace(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' }

func isSpaceOrComma(r rune) bool { return r == ',' || isSpace(r) }

// squeeze removes all white space from s, as wg does with every line.
func squeeze(s string) string {
	return strings.Map(func(r rune) rune {
		if isSpace(r) {
			return -1
		}
		return r
	}, s)
}
