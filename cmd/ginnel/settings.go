package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ginnel/configs"
)

// envPrefix begins the environment variable of every flag.
const envPrefix = "GINNEL_"

// onCommandLine is the annotation of flags that were given there, not by a setting.
const onCommandLine = "command line"

func givenOnCommandLine(f *pflag.Flag) bool {
	_, ok := f.Annotations[onCommandLine]
	return ok
}

// envName is the environment variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// isSetting reports whether a flag can come from elsewhere than the command line.
func isSetting(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "config" }

// isList reports whether a flag may be repeated.
func isList(f *pflag.Flag) bool {
	kind := f.Value.Type()
	return kind == "stringArray" || kind == "stringSlice"
}

// applySettings sets the flags that were not given from the environment and the configuration file.
func applySettings(cmd *cobra.Command, p program) error {
	given := make(map[string]bool)
	cmd.Flags().Visit(func(f *pflag.Flag) {
		given[f.Name] = true
		f.Annotations = map[string][]string{onCommandLine: nil}
	})
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
		if err != nil || given[f.Name] || !isSetting(f) || value == "" || isOtherUse(f, value) {
			return
		}
		values := []string{value}
		if isList(f) {
			values = splitList(value)
		}
		for _, v := range values {
			if serr := cmd.Flags().Set(f.Name, v); serr != nil {
				err = usagef("%s: %w", name, flagError(serr))
			}
		}
		given[f.Name] = true
	})
	return err
}

// isOtherUse reports whether a variable with the name of a setting is not meant as one: 'ginnel
// run' and 'ginnel up --env' set GINNEL_PROXY to the URL of a node's proxy, and --proxy of a
// further node is where that listens.
func isOtherUse(f *pflag.Flag, value string) bool {
	_, listens := f.Value.(*parsedList[configs.Address])
	return envName(f.Name) == meshProxyVariable && listens && isProxyURL(value)
}

// splitList cuts the value of a variable that stands for a repeated flag.
func splitList(value string) (values []string) {
	for _, v := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == '\n' }) {
		if v = strings.TrimSpace(v); v != "" {
			values = append(values, v)
		}
	}
	return values
}

// applyFile sets flags from the YAML file at path. It may hold keys for other commands; what is no
// command's is an error.
func applyFile(cmd *cobra.Command, path string, given map[string]bool) error {
	known := knownSettings(cmd.Root())
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if isSetting(f) {
			known[f.Name] = kindOf(f) // which may be another command's list of that name
		}
	})
	settings, err := configs.Load(path, known)
	if _, noFile := errors.AsType[*fs.PathError](err); noFile {
		return noFileError("--config", path, "--config /etc/ginnel/up.yaml", err)
	}
	if err != nil {
		return usageError{err}
	}
	for _, s := range settings {
		flags := cmd.Flags()
		if flags.Lookup(s.Key) == nil {
			flags = flagsWith(cmd.Root(), s.Key) // which is not run; its values are looked at all the same
		}
		if given[s.Key] {
			continue
		}
		for _, v := range s.Values {
			if err := flags.Set(s.Key, v.Text); err != nil {
				return usagef("%v: %w", v.At, flagError(err))
			}
		}
	}
	return nil
}

// noFileError says which flag names a file that cannot be read, and shows by an example what is
// wanted.
func noFileError(flag, path, example string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return usagef("%s %s: %w; the path of a file that is there is wanted, such as %s", flag, path, err, example)
}

// knownSettings are the flags of all commands. What is a list for one is one for all that do not
// have it.
func knownSettings(cmd *cobra.Command) map[string]configs.Kind {
	known := make(map[string]configs.Kind)
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if isSetting(f) {
			known[f.Name] = kindOf(f)
		}
	})
	for _, sub := range cmd.Commands() {
		for name, kind := range knownSettings(sub) {
			known[name] = max(known[name], kind)
		}
	}
	return known
}

func kindOf(f *pflag.Flag) configs.Kind {
	if isList(f) {
		return configs.List
	}
	return configs.Scalar
}

// flagsWith are the flags of the first command that has this one.
func flagsWith(cmd *cobra.Command, name string) *pflag.FlagSet {
	if cmd.LocalFlags().Lookup(name) != nil {
		return cmd.LocalFlags()
	}
	for _, sub := range cmd.Commands() {
		if fs := flagsWith(sub, name); fs != nil {
			return fs
		}
	}
	return nil
}

// warnOfEnvironment warns of variables that look like settings and are none: a typing error would
// otherwise go unseen. It is no error because others set such variables too, Kubernetes for a
// service named ginnel.
func warnOfEnvironment(cmd *cobra.Command, p program, log *slog.Logger) {
	for _, s := range strayVariables(cmd, p) {
		args := []any{"name", s.name}
		if s.meant != "" {
			args = append(args, "meant", s.meant+"?")
		}
		log.Warn("environment variable is not a setting", args...)
	}
}

// withStrayVariables adds to a usage error the variables that look like settings and are none: one
// of them may be what is missing.
func withStrayVariables(err error, cmd *cobra.Command, p program) error {
	if err == nil {
		return nil
	}
	for _, s := range strayVariables(cmd, p) {
		hint := s.name + " is not known"
		if s.meant != "" {
			hint += ", did you mean " + s.meant + "?"
		}
		err = usagef("%w\n%s", err, hint)
	}
	return err
}

// strayVariable is a variable of the environment that looks like a setting and is none.
type strayVariable struct{ name, meant string } // meant is the nearest setting; empty: none is near

func strayVariables(cmd *cobra.Command, p program) (stray []strayVariable) {
	known := map[string]bool{envName("config"): true}
	for name := range knownSettings(cmd.Root()) {
		known[envName(name)] = true
	}
	for _, kv := range p.environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix) && !known[name] && !strings.Contains(name, "_SERVICE_") && !strings.Contains(name, "_PORT") {
			stray = append(stray, strayVariable{name, nearest(name, slices.Sorted(maps.Keys(known)))})
		}
	}
	return stray
}

// flagError says what is wrong with the value of a flag. It leaves out the value of one that holds
// a secret, which pflag would quote, and says what is wanted where strconv only says that something
// is not.
func flagError(err error) error {
	e, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	f := e.GetFlag()
	if s, ok := f.Value.(interface{ isSecret() bool }); ok && s.isSecret() {
		return fmt.Errorf("invalid argument for \"--%s\" flag: %w", f.Name, e.Unwrap())
	}
	if isProxyURL(e.GetValue()) && strings.Contains(e.GetValue(), "@") {
		return fmt.Errorf("invalid argument (not shown: it holds a password) for \"--%s\" flag: %w", f.Name, e.Unwrap())
	}
	if _, ok := errors.AsType[*strconv.NumError](e.Unwrap()); ok {
		want := "a whole number in range is wanted"
		if f.Value.Type() == "bool" {
			want = "true or false is wanted"
		}
		return fmt.Errorf("invalid argument %q for \"--%s\" flag: %s", e.GetValue(), f.Name, want)
	}
	if _, ours := f.Value.(secretFlag); !ours && f.Value.Type() == "duration" { // pflag's own names no unit
		return fmt.Errorf("invalid argument %q for \"--%s\" flag: a duration with its unit is wanted, such as --%[2]s 30s", e.GetValue(), f.Name)
	}
	return err
}

// parsed is a flag whose value has a form of its own; it is checked when it is set, so that the
// error can name the place.
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

// plain is the value as it can be given without a file.
func (f *parsed[T]) plain() string {
	if v, ok := any(f.value).(interface{ Plain() string }); ok {
		return v.Plain()
	}
	return f.text
}

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
