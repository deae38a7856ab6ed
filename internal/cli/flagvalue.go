package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Parsed is a flag whose value is parsed when it is set. An error can then say whether the value
// came from the command line, the environment or a line of a file.
type Parsed[T any] struct {
	Parse  func(string) (T, error)
	Kind   string // shown in help
	Secret bool   // its value is not shown in errors
	Text   string // as it was given
	Value  T
}

// Set implements pflag.Value.
func (f *Parsed[T]) Set(s string) error {
	v, err := f.Parse(s)
	if err != nil {
		return err
	}
	f.Value, f.Text = v, s
	return nil
}

// String implements pflag.Value.
func (f *Parsed[T]) String() string { return f.Text }

// Type implements pflag.Value.
func (f *Parsed[T]) Type() string { return f.Kind }

// IsSecret implements SecretFlag.
func (f *Parsed[T]) IsSecret() bool { return f.Secret }

// Plain returns the text of the value. For a secret that was given as file:PATH this is the content
// of the file.
func (f *Parsed[T]) Plain() string {
	if v, ok := any(f.Value).(interface{ Plain() string }); ok {
		return v.Plain()
	}
	return f.Text
}

// List is like Parsed, for a flag that may be repeated.
type List[T any] struct {
	Parse  func(string) (T, error)
	Texts  []string
	Values []T
	set    bool // the default was replaced
}

// Set implements pflag.Value. The first value replaces the default.
func (f *List[T]) Set(s string) error {
	v, err := f.Parse(s)
	if err != nil {
		return err
	}
	if !f.set {
		f.set, f.Texts, f.Values = true, nil, nil
	}
	f.Texts, f.Values = append(f.Texts, s), append(f.Values, v)
	return nil
}

// String implements pflag.Value.
func (f *List[T]) String() string { return strings.Join(f.Texts, ",") }

// Type implements pflag.Value. By this type isList knows that the flag may be repeated.
func (f *List[T]) Type() string { return "stringArray" }

// Preset gives a list its default. The first call of Set replaces it.
func Preset[T any](f *List[T], s string) *List[T] {
	if err := f.Set(s); err != nil {
		panic(fmt.Sprintf("internal error: default %q: %v", s, err))
	}
	f.set = false
	return f
}

// flagError rewrites an error of pflag about the value of a flag. It leaves out a value that is a
// secret, which pflag would quote. Where the error of strconv only says that the value is wrong, it
// says which form it wants.
func flagError(err error) error {
	e, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	f := e.GetFlag()
	if s, ok := f.Value.(interface{ IsSecret() bool }); ok && s.IsSecret() {
		return fmt.Errorf("invalid argument for \"--%s\" flag: %w", f.Name, e.Unwrap())
	}
	if IsProxyURL(e.GetValue()) && strings.Contains(e.GetValue(), "@") {
		return fmt.Errorf("invalid argument (not shown: it holds a password) for \"--%s\" flag: %w", f.Name, e.Unwrap())
	}
	if _, ok := errors.AsType[*strconv.NumError](e.Unwrap()); ok {
		want := "want a whole number in range"
		if f.Value.Type() == "bool" {
			want = "want true or false"
		}
		return fmt.Errorf("invalid argument %q for \"--%s\" flag: %s", e.GetValue(), f.Name, want)
	}
	if _, ours := f.Value.(SecretFlag); !ours && f.Value.Type() == "duration" { // pflag's own names no unit
		return fmt.Errorf("invalid argument %q for \"--%s\" flag: want a duration with its unit, such as --%[2]s 30s",
			e.GetValue(), f.Name)
	}
	return err
}
