package main

import (
	"strings"

	"dfs/internal/cli"
)

// helperArgs turns the arguments that mount(8) gives to a helper,
// SOURCE FOLDER [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE], into ours.
func helperArgs(args []string) ([]string, error) {
	var out, words []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "-o" || arg == "-t" || arg == "-N":
			i++
			if i == len(args) {
				return nil, cli.Usagef("%s: wants a value", arg)
			}
			switch arg {
			case "-o":
				words = append(words, args[i])
			case "-N":
				return nil, cli.Usagef("-N: mounting in another namespace is not supported; use nsenter(1)")
			}
		case strings.HasPrefix(arg, "-"):
			for _, flag := range arg[1:] {
				switch flag {
				case 'f':
					out = append(out, "--fake")
				case 's':
					out = append(out, "--sloppy")
				case 'n', 'v', 'w': // no mtab, verbose, read-write: nothing to do
				case 'r':
					words = append(words, "ro")
				default:
					return nil, cli.Usagef("-%c: unknown flag of a mount helper", flag)
				}
			}
		default:
			out = append(out, arg)
		}
	}
	if len(words) > 0 {
		out = append(out, "-o", strings.Join(words, ","))
	}
	return out, nil
}
