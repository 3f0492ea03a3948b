# The rules for Markdown: mdl's own, but for these
all
# C++ and Perl are indented with tabs
exclude_rule 'MD010'
# tables and links don't wrap
rule 'MD013', line_length: 132, tables: false, ignore_code_blocks: true
# questions are titles, too
rule 'MD026', punctuation: '.,;:!'
rule 'MD029', style: :ordered
