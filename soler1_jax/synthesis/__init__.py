"""From simulated runs to labelled records: experts, mistakes, thoughts, questions."""
