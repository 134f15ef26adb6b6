package config

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"
)

// Setting is one thing that an operator can decide.
type Setting struct {
	Key      string   // in the file
	Flag     string   // without the dashes
	Env      []string // the first that is set counts
	Default  string
	Help     string
	Group    string
	Secret   bool
	Commands []string // which commands take it; none: all
	flag     *kong.Flag
}

// Settings lists the settings of a command and all below it, by group and
// name. The same setting of several commands is listed once.
func Settings(node *kong.Node) []Setting {
	var all []Setting
	at := map[string]int{}
	_ = kong.Visit(node, func(v kong.Visitable, next kong.Next) error { // the visitor below never fails
		n, ok := v.(*kong.Node)
		if !ok {
			return next(nil)
		}
		for _, flag := range n.Flags {
			if len(flag.Envs) == 0 || flag.Tag.Has("nofile") {
				continue
			}
			s := settingOf(flag)
			i, seen := at[s.Key]
			if !seen {
				i = len(all)
				at[s.Key] = i
				all = append(all, s)
			}
			if n.Type == kong.CommandNode && !slices.Contains(all[i].Commands, n.Name) {
				all[i].Commands = append(all[i].Commands, n.Name)
				if all[i].Default != s.Default {
					all[i].Default = "depends on the command"
				}
			}
		}
		return next(nil)
	})
	slices.SortStableFunc(all, func(a, b Setting) int { return strings.Compare(a.Group+"\x00"+a.Key, b.Group+"\x00"+b.Key) })
	return all
}

func settingOf(flag *kong.Flag) Setting {
	s := Setting{Key: keyOf(flag), Flag: flag.Name, Env: flag.Envs, Default: flag.Default, Help: flag.Help, flag: flag}
	if flag.Group != nil {
		s.Group = flag.Group.Title
	}
	_, s.Secret = flag.Target.Addr().Interface().(redacting)
	if !s.Secret && flag.IsSlice() {
		_, s.Secret = kongElem(flag).(redacting)
	}
	return s
}

// Print writes the settings as they are for the selected command, as a
// configuration file. Secrets are redacted unless reveal is set.
func Print(w io.Writer, node *kong.Node, reveal bool) error {
	doc := &yaml.Node{Kind: yaml.MappingNode}
	for _, s := range nodeSettings(node) {
		value := s.flag.Target.Interface()
		if reveal {
			value = revealed(value)
		}
		var v yaml.Node
		if err := v.Encode(value); err != nil {
			return fmt.Errorf("setting %s: %w", s.Key, err)
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: s.Key, HeadComment: s.Help}
		doc.Content = append(doc.Content, key, &v)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return err
	}
	return enc.Close()
}

// Values are the settings as they are for the selected command, by key.
// Secrets are redacted unless reveal is set.
func Values(node *kong.Node, reveal bool) map[string]any {
	all := map[string]any{}
	for _, s := range nodeSettings(node) {
		value := s.flag.Target.Interface()
		if reveal {
			value = revealed(value)
		}
		if text, ok := value.(fmt.Stringer); ok {
			value = text.String()
		}
		all[s.Key] = value
	}
	return all
}

// nodeSettings are the settings that one command takes: its own, and those
// of the commands above it.
func nodeSettings(node *kong.Node) []Setting {
	var all []Setting
	for n := node; n != nil; n = n.Parent {
		for _, flag := range n.Flags {
			if len(flag.Envs) > 0 && !flag.Tag.Has("nofile") {
				all = append(all, settingOf(flag))
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Setting) int { return strings.Compare(a.Group+"\x00"+a.Key, b.Group+"\x00"+b.Key) })
	return all
}

// Markdown writes the settings as tables, one for each group.
func Markdown(w io.Writer, node *kong.Node) error {
	var out strings.Builder
	group := "\x00"
	for _, s := range Settings(node) {
		if s.Group != group {
			group = s.Group
			title := group
			if title == "" {
				title = "Everywhere"
			}
			fmt.Fprintf(&out, "\n## %s\n\n| file | flag | environment | default | what it is |\n|---|---|---|---|---|\n", title)
		}
		help := s.Help
		if len(s.Commands) > 0 {
			help += " (" + strings.Join(s.Commands, ", ") + ")"
		}
		fmt.Fprintf(&out, "| `%s` | `--%s` | %s | %s | %s |\n", s.Key, s.Flag, code(s.Env...), code(s.Default), cell(help))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func code(words ...string) string {
	var out []string
	for _, w := range words {
		if w != "" {
			out = append(out, "`"+cell(w)+"`")
		}
	}
	return strings.Join(out, ", ")
}

func cell(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ") }
