package figures

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	blockOpen  = "<!-- figures:"
	blockName  = " -->"
	blockClose = "<!-- /figures -->"
)

// Update rewrites the blocks of README.md and docs/*.md below root, and returns
// the documents that changed.
func Update(root string) ([]string, error) {
	texts, err := render(root)
	if err != nil {
		return nil, err
	}
	var changed []string
	for name, text := range texts {
		file := filepath.Join(root, name)
		old, err := os.ReadFile(file)
		if err != nil {
			return changed, err
		}
		if string(old) == text {
			continue
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return changed, err
		}
		changed = append(changed, name)
	}
	return changed, nil
}

// render returns the documents that have blocks, as they should be.
func render(root string) (map[string]string, error) {
	names, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for _, file := range append(names, filepath.Join(root, "README.md")) {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !strings.Contains(string(raw), blockOpen) {
			continue
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return nil, err
		}
		up := strings.Repeat("../", strings.Count(filepath.ToSlash(rel), "/"))
		text, err := replace(string(raw), func(name string) (string, error) { return block(root, name, up) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rel, err)
		}
		texts[rel] = text
	}
	return texts, nil
}

// replace returns text with the content of each block replaced by what content returns.
func replace(text string, content func(name string) (string, error)) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, blockOpen)
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, rest, ok := strings.Cut(rest, blockName)
		_, after, closed := strings.Cut(rest, blockClose)
		if !ok || !closed || strings.Contains(name, "\n") {
			return "", fmt.Errorf("a block is not closed by %s", blockClose)
		}
		made, err := content(name)
		if err != nil {
			return "", fmt.Errorf("block %s: %w", name, err)
		}
		b.WriteString(blockOpen + name + blockName + "\n\n" + made + "\n" + blockClose)
		text = after
	}
}
