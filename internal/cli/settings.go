package cli

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ginnel/configs"
)

// onCommandLine is the annotation of flags that were given there, not by a setting.
const onCommandLine = "command line"

// GivenOnCommandLine reports whether the value of a flag comes from the command line, not from a
// setting.
func GivenOnCommandLine(f *pflag.Flag) bool {
	_, ok := f.Annotations[onCommandLine]
	return ok
}

// IsSetting reports whether a flag can come from elsewhere than the command line.
func IsSetting(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "config" }

// isList reports whether a flag may be repeated.
func isList(f *pflag.Flag) bool {
	kind := f.Value.Type()
	return kind == "stringArray" || kind == "stringSlice"
}

// ApplySettings sets the flags that were not given from the environment and the configuration file.
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

// SplitList cuts the value of a variable that stands for a repeated flag.
func SplitList(value string) (values []string) {
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
	known := KnownSettings(cmd.Root())
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if IsSetting(f) {
			known[f.Name] = kindOf(f) // which may be another command's list of that name
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
			flags = flagsWith(cmd.Root(), s.Key) // which is not run; its values are looked at all the same
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

// NoFileError says which flag names a file that cannot be read, and shows by an example what is
// wanted.
func NoFileError(flag, path, example string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return Usagef("%s %s: %w; the path of a file that is there is wanted, such as %s", flag, path, err, example)
}

// KnownSettings are the flags of all commands. What is a list for one is one for all that do not
// have it.
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
