package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ginnel/configs"
)

// envPrefix begins the environment variable of every flag.
const envPrefix = "GINNEL_"

// envName is the environment variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// isSetting reports whether a flag can come from elsewhere than the command line.
func isSetting(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "config" }

// isList reports whether a flag may be repeated.
func isList(f *pflag.Flag) bool { return f.Value.Type() == "stringArray" }

// applySettings sets the flags that were not given from the environment and the configuration file.
func applySettings(cmd *cobra.Command, p program) error {
	given := make(map[string]bool)
	cmd.Flags().Visit(func(f *pflag.Flag) { given[f.Name] = true })
	if err := applyEnvironment(cmd, p, given); err != nil {
		return err
	}
	f := cmd.Flags().Lookup("config")
	if f == nil {
		return nil
	}
	path := f.Value.String()
	if path == "" {
		path = p.getenv(envName("config"))
	}
	if path == "" {
		return nil
	}
	return applyFile(cmd, path, given)
}

func applyEnvironment(cmd *cobra.Command, p program, given map[string]bool) (err error) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := envName(f.Name)
		value := p.getenv(name)
		if err != nil || given[f.Name] || !isSetting(f) || value == "" {
			return
		}
		values := []string{value}
		if isList(f) {
			values = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == '\n' })
		}
		for _, v := range values {
			if serr := cmd.Flags().Set(f.Name, strings.TrimSpace(v)); serr != nil {
				err = usagef("%s: %w", name, flagError(serr))
			}
		}
		given[f.Name] = true
	})
	return err
}

// applyFile sets flags from the YAML file at path. It may hold keys for other commands; what is no command's is an
// error.
func applyFile(cmd *cobra.Command, path string, given map[string]bool) error {
	settings, err := configs.Load(path, knownSettings(cmd.Root()))
	if err != nil {
		return usageError{err}
	}
	for _, s := range settings {
		f := cmd.Flags().Lookup(s.Key)
		if f == nil || given[s.Key] {
			continue
		}
		for _, v := range s.Values {
			if err := cmd.Flags().Set(s.Key, v.Text); err != nil {
				return usagef("%v: %w", v.At, flagError(err))
			}
		}
	}
	return nil
}

// knownSettings are the flags of all commands.
func knownSettings(cmd *cobra.Command) map[string]configs.Kind {
	known := make(map[string]configs.Kind)
	add := func(f *pflag.Flag) {
		if isSetting(f) {
			known[f.Name] = configs.Scalar
			if isList(f) {
				known[f.Name] = configs.List
			}
		}
	}
	cmd.LocalFlags().VisitAll(add)
	for _, sub := range cmd.Commands() {
		for name, kind := range knownSettings(sub) {
			known[name] = kind
		}
	}
	return known
}

// unknownEnvironment lists variables that look like settings and are none, for a warning: a typing error would
// otherwise go unseen. It is no error because others set such variables too, Kubernetes for a service named ginnel.
func unknownEnvironment(cmd *cobra.Command, p program) (names []string) {
	known := map[string]bool{envName("config"): true}
	for name := range knownSettings(cmd.Root()) {
		known[envName(name)] = true
	}
	for _, kv := range p.environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix) && !known[name] && !strings.Contains(name, "_SERVICE_") && !strings.Contains(name, "_PORT") {
			names = append(names, name)
		}
	}
	return names
}

// flagError leaves the value out of the error of a flag that holds a secret; pflag would quote it.
func flagError(err error) error {
	e, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	if s, ok := e.GetFlag().Value.(interface{ isSecret() bool }); !ok || !s.isSecret() {
		return err
	}
	return fmt.Errorf("invalid argument for \"--%s\" flag: %w", e.GetFlag().Name, e.Unwrap())
}

// parsed is a flag whose value has a form of its own; it is checked when it is set, so that the error can name the place.
type parsed[T any] struct {
	parse  func(string) (T, error)
	typ    string // shown in help
	secret bool   // its value is not shown
	text   string
	value  T
}

func (f *parsed[T]) Set(s string) error {
	v, err := f.parse(s)
	if err != nil {
		return err
	}
	f.value, f.text = v, s
	return nil
}

func (f *parsed[T]) String() string { return f.text }
func (f *parsed[T]) Type() string   { return f.typ }
func (f *parsed[T]) isSecret() bool { return f.secret }

// parsedList is parsed for a flag that may be repeated.
type parsedList[T any] struct {
	parse  func(string) (T, error)
	texts  []string
	values []T
	set    bool // the default was replaced
}

func (f *parsedList[T]) Set(s string) error {
	v, err := f.parse(s)
	if err != nil {
		return err
	}
	if !f.set {
		f.set, f.texts, f.values = true, nil, nil
	}
	f.texts, f.values = append(f.texts, s), append(f.values, v)
	return nil
}

func (f *parsedList[T]) String() string { return strings.Join(f.texts, ",") }

// Type is what isList looks for.
func (f *parsedList[T]) Type() string { return "stringArray" }

// preset gives a list its default, which a first Set replaces.
func preset[T any](f *parsedList[T], s string) *parsedList[T] {
	if err := f.Set(s); err != nil {
		panic(fmt.Sprintf("internal error: default %q: %v", s, err))
	}
	f.set = false
	return f
}
