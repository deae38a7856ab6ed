package cli

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ginnel/configs"
)

// onCommandLine annotates flags whose value comes from the command line.
const onCommandLine = "command line"

// GivenOnCommandLine reports whether the value of a flag comes from the command line, not from a
// setting.
func GivenOnCommandLine(f *pflag.Flag) bool {
	_, ok := f.Annotations[onCommandLine]
	return ok
}

// IsSetting reports whether a flag may come from the environment or from a file.
func IsSetting(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "config" }

// isList reports whether a flag may be repeated.
func isList(f *pflag.Flag) bool {
	kind := f.Value.Type()
	return kind == "stringArray" || kind == "stringSlice"
}

// ApplySettings sets the flags that are not on the command line from the environment, and then the
// remaining ones from the configuration file.
func ApplySettings(cmd *cobra.Command, p Program) error {
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
		path = p.Getenv(EnvName("config"))
	}
	if path == "" {
		return nil
	}
	return applyFile(cmd, path, given)
}

func applyEnvironment(cmd *cobra.Command, p Program, given map[string]bool) (err error) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := EnvName(f.Name)
		value := p.Getenv(name)
		if err != nil || given[f.Name] || !IsSetting(f) || value == "" || isOtherUse(f, value) {
			return
		}
		values := []string{value}
		if isList(f) {
			values = SplitList(value)
		}
		for _, v := range values {
			if serr := cmd.Flags().Set(f.Name, v); serr != nil {
				err = Usagef("%s: %w", name, flagError(serr))
			}
		}
		given[f.Name] = true
	})
	return err
}

// SplitList splits the value of an environment variable for a flag that may be repeated.
func SplitList(value string) (values []string) {
	for _, v := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == '\n' }) {
		if v = strings.TrimSpace(v); v != "" {
			values = append(values, v)
		}
	}
	return values
}

// applyFile sets flags from the YAML file at path. The file may have settings of other commands. A
// key that no command has is an error.
func applyFile(cmd *cobra.Command, path string, given map[string]bool) error {
	known := KnownSettings(cmd.Root())
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if IsSetting(f) {
			known[f.Name] = kindOf(f) // another command may have a list of this name
		}
	})
	settings, err := configs.Load(path, known)
	if _, noFile := errors.AsType[*fs.PathError](err); noFile {
		return NoFileError("--config", path, "--config /etc/ginnel/up.yaml", err)
	}
	if err != nil {
		return Usage(err)
	}
	for _, s := range settings {
		flags := cmd.Flags()
		if flags.Lookup(s.Key) == nil {
			flags = flagsWith(cmd.Root(), s.Key) // of another command; a wrong value is an error all the same
		}
		if given[s.Key] {
			continue
		}
		for _, v := range s.Values {
			if err := flags.Set(s.Key, v.Text); err != nil {
				return Usagef("%v: %w", v.At, flagError(err))
			}
		}
	}
	return nil
}

// NoFileError returns a usage error about the flag that names an unreadable file, with an example
// of its value.
func NoFileError(flag, path, example string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return Usagef("%s %s: %w; want the path of an existing file, such as %s", flag, path, err, example)
}

// KnownSettings returns the settings of a command and its subcommands. A flag that is a list in one
// of them is a list in the result.
func KnownSettings(cmd *cobra.Command) map[string]configs.Kind {
	known := make(map[string]configs.Kind)
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if IsSetting(f) {
			known[f.Name] = kindOf(f)
		}
	})
	for _, sub := range cmd.Commands() {
		for name, kind := range KnownSettings(sub) {
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

// flagsWith returns the flags of the first command that has a flag of this name.
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
