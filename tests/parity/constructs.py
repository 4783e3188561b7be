"""Constructs of Jinja and Python that chat templates may use, as a list of templates. make_templates.py renders them.

The templates see one message of a user, `Hi`. None has a dash, a date or a random number in its text.
"""

VALUES = [
    # Numbers.
    "{{ 1 }} {{ -1 }} {{ 1.0 }} {{ 1.5 }} {{ 0.1 }} {{ 1e16 }} {{ 1e-7 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.5e300 }}",
    "{{ 3.0 * 2 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7.5 // 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }}",
    "{{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ true % 2 }} {{ 1 % 0.3 }}",
    "{{ 1 % 0 }}", "{{ 1.0 % 0 }}", "{{ 1 % 'a' }}", "{{ none % 2 }}", "{{ [1] % 2 }}",
    "{{ 12345678901234567890 }} {{ 9007199254740993 + 1 }} {{ 1_000 }}",
    "{{ true + 1 }} {{ true }} {{ false }} {{ none }} {{ True and None }}",
    "{{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1} }} {{ 1 != 2 }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }}", "{{ 0.1 + 0.2 }} {{ 1e308 * 10 }} {{ -1e308 * 10 }}", "{{ 3 - -2 }} {{ - 3 }} {{ -(3) }}",
    # Texts of values.
    "{{ ['a', \"b'c\", none, true, 1.5, 1e-7, 1e16] }}", "{{ {'a': {'b': [1, 'x']}, 1: 2.0} }}", "{{ (1,) }} {{ (1, 'a') }} {{ () }}",
    "{{ [[], {}, ''] }}", "{{ ['\\n\\t\\\\', 'é', '\\u2028\\u00ad\\u200b', '\"\\''] }}", "{{ [1] + [2] }} {{ (1,) + (2,) }}",
    "{{ 'a' ~ 1.0 ~ 1e-7 ~ none ~ true ~ [1e16] }}", "{{ 1 ~ 2 }} {{ 'a' ~ nope ~ 'b' }}", "{{ 'x' ~ 1 + 2 }}", "{{ ('a' ~ 'b') * 2 }}",
    "{{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ '-' * 0 }}", "{{ [0] * 3 }}", "{{ 'a' 'b' }}", "{{ 'a' + 'b' }}", "{{ 'a' + 1 }}", "{{ 1 + 'a' }}",
    "{{ nope }}|{{ nope is defined }}|{{ messages[0].nope }}|{{ messages[0]['nope'] }}", "{{ nope.nope }}", "{{ nope + 'a' }}", "{{ nope() }}",
    "{{ nope | length }}{{ nope | list }}{{ nope | join(',') }}{% for x in nope %}x{% endfor %}", "{{ nope == nope2 }} {{ nope == none }}",
    "{{ 'a' in 'cat' }} {{ 'a' in ['a'] }} {{ 'a' in {'a': 1} }} {{ 'x' not in 'abc' }} {{ 1 in (1, 2) }} {{ 'a' in nope }}", "{{ 'a' in none }}",
    "{{ 'hello'[::-1] }} {{ 'hello'[1:3] }} {{ 'hello'[-3:] }} {{ 'hello'[::2] }} {{ 'hello'[1] }} {{ 'hello'[-1] }} {{ 'añb'[1] }}",
    "{{ [1, 2, 3][::-1] }} {{ [1, 2, 3][1:] }} {{ [1, 2, 3][:-1] }} {{ [1, 2, 3][-1] }} {{ [1, 2, 3][9:] }} {{ (1, 2, 3)[1:] }}",
    "{{ [1][5] }}|{{ 'a'[5] }}", "{{ 'a' if false }}|{{ 'a' if true else 'b' }}|{{ 'a' if nope else 'b' }}",
    "{{ 'x' and 'y' }} {{ '' or 'z' }} {{ not '' }} {{ [] or {} }} {{ 0 or none }}", "{{ messages[0].content }} {{ messages[0]['role'] }}",
    # Formatting.
    "{{ '%s-%d' % ('a', 3) }}", "{{ '%s' % 'a' }} {{ '%s' % 1.0 }} {{ '%s' % none }} {{ '%s' % [1, 'a'] }} {{ '%s' % 1e-7 }}",
    "{{ '%5d|%-5d|%05d|%+d|% d' % (1, 2, 3, 4, 5) }}", "{{ '%.2f %8.3f %e %g %G' % (1.005, 2.5, 12345.678, 1e-7, 1e20) }}",
    "{{ '%x %X %o %#x' % (255, 255, 8, 255) }}", "{{ '%c%c' % ('a', 98) }} {{ '%%' % () }} {{ '100%%' % () }}", "{{ '%(a)s-%(b)d' % {'a': 1, 'b': 2} }}",
    "{{ '%r %a' % ('é', 'é') }} {{ '%5s|%-5s|%.2s' % ('ab', 'ab', 'abc') }} {{ '%*d' % (5, 1) }} {{ '%i %u' % (1, 2) }} {{ '%d' % 3.7 }} {{ '%d' % true }}",
    "{{ '%s' % () }}", "{{ '%s' % (1, 2) }}", "{{ 'a' % 1 }}", "{{ 'a' % [] }}", "{{ '%d' % 'a' }}", "{{ '%q' % 1 }}", "{{ '%(a)s' % 1 }}", "{{ '%(a)s' % {} }}", "{{ '%x' % 1.5 }}",
    "{% set f = '%s!' %}{{ f % 'a' }} {{ f % 'a' | upper }} {{ 2 * 3 % 4 }} {{ 'a%sb' % 'c' ~ 'd' }}",
    "{{ '%s, %s' | format('a', 1.0) }} {{ '%(x)s' | format(x=3) }} {{ 'a' | format }}", "{{ '{}-{}'.format('a', 3) }} {{ '{1}{0}'.format(1, 2) }} {{ '{a}'.format(a=1.0) }}",
    "{{ '{:>5}|{:<5}|{:^5}|{:05d}|{:,}|{:.2f}|{:x}'.format('a', 'b', 'c', 42, 1234567, 1.5, 255) }}", "{{ '{a[k]}{b.k}'.format(a={'k': 1}, b={'k': 2}) }}",
    "{{ '{} 20240101 {{}}'.format(1) }}", "{{ '{}'.format() }}", "{{ '{x}'.format(1) }}", "{{ '{'.format(1) }}",
]

TOJSON = [
    "{{ %s | tojson%s }}" % (value, arguments)
    for value in ("{'b': [1, {}, [], {'x': none}], 'a': 'é<>&\\'\"'}", "[1.0, 1e-7, 1e16, true, 12345678901234567890]")
    for arguments in (
        "", "(indent=2)", "(indent=0)", "(indent='\\t')", "(indent=none)", "(separators=(',', ':'))", "(separators=(', ', ' = '), indent=1)", "(sort_keys=true)",
        "(sort_keys=True, indent=4)", "(ensure_ascii=true)", "(true)", "(false, 2)", "(ensure_ascii=False, indent=4, separators=(',', ': '), sort_keys=True)",
    )
] + [
    "{{ 'a\\u2028b\\x7f\\u0001/\\b\\f\\n\\r\\t\\\\' | tojson }}", "{{ '\\x7f🎉é' | tojson(ensure_ascii=True) }}", "{{ none | tojson }}{{ 'a' | tojson }}{{ true | tojson }}{{ 1.0 | tojson }}",
    "{{ (1, (2,), ()) | tojson }}", "{{ {2: 'a', none: 'b', true: 'c', 1.5: 'd', 'e': 1} | tojson }}", "{{ {(1, 2): 3} | tojson }}", "{{ nope | tojson }}", "{{ {'a': nope} | tojson }}",
    "{{ messages | tojson }}", "{{ range(3) | list | tojson }}", "{{ 'a' | tojson(nope=1) }}", "{{ 'a' | tojson(1, 2, 3, 4, 5) }}", "{{ (1e308 * 10) | tojson }}", "{{ [1] | tojson(separators=',') }}",
    "{{ ([1, 2] + [3]) | tojson }} {{ [1, 2, 3][1:] | tojson }} {{ ([3, 1] | sort) | tojson }} {{ 'abc' | list | tojson }}", "{{ messages[0].items() | list | tojson }}", "{{ {} | tojson(indent=2) }}{{ [] | tojson(indent=2) }}",
    "{% set x %}a{% endset %}{{ x | tojson }}",
]

METHODS = [
    "{{ %s }}" % expression
    for expression in (
        "'a  b c'.split()", "'a:b:c'.split(':', 1)", "'a b  c '.split(none, 1)", "'a:b'.split(sep=':')", "'a b c'.split(maxsplit=1)", "''.split()", "''.split(',')", "'abc'.split('')", "'a b'.split(1)",
        "'a:b:c'.rsplit(':', 1)", "'a b  c '.rsplit(none, 1)", "' a b '.rsplit()", "'a,b'.rsplit(',', 0)", "'abc'.rsplit(maxsplit=0)", "' a'.rsplit(none, 1)",
        "'a\\nb\\r\\nc\\x0bd\\u2028e\\n'.splitlines()", "'a\\nb\\r\\n'.splitlines(true)", "'a\\n\\nb'.splitlines(keepends=True)", "''.splitlines()",
        "'a-b-c'.partition('-')", "'a-b-c'.rpartition('-')", "'abc'.partition('-')", "'abc'.rpartition('-')", "'abc'.partition('')", "'  a '.strip()", "'xxaxx'.strip('x')", "'xyaxy'.lstrip('yx')",
        "'xyaxy'.rstrip('yx')", "'\\x1ca\\u3000'.strip()", "'a'.strip(none)", "'a'.strip(1)", "'abc'.removeprefix('a')", "'abc'.removeprefix('x')", "'abc'.removesuffix('c')", "'abc'.removesuffix('')",
        "'aaa'.replace('a', 'b', 2)", "'aaa'.replace('a', 'b')", "'abc'.replace('', '-')", "'abc'.replace('', '-', 2)", "'aaa'.replace('a', 'b', -1)", "'aaa'.replace('a', 1)", "'hello'.find('l')", "'hello'.find('l', 3)",
        "'hello'.find('z')", "'hello'.find('l', -2)", "'hello'.find('o', 0, 4)", "'hello'.find('', 9)", "'hello'.rfind('l')", "'hello'.index('l')", "'hello'.rindex('l')", "'hello'.index('z')", "'héllo'.index('l')",
        "'hello'.count('l')", "'hello'.count('')", "'hello'.count('l', 3)", "'aaaa'.count('aa')", "'abc'.startswith('a')", "'abc'.startswith(('x', 'a'))", "'abc'.startswith('b', 1)", "'abc'.startswith(['a'])",
        "'abc'.endswith('c')", "'abc'.endswith(('x', 'bc'))", "'abc'.endswith('b', 0, 2)", "'abc'.endswith(('x', 1))", "','.join(['a', 'b'])", "','.join('abc')", "','.join([1])", "','.join({'a': 1})", "','.join([])",
        "'7'.zfill(3)", "'-7'.zfill(4)", "'+7'.zfill(1)", "'abc'.zfill(2)", "'ab'.ljust(5)", "'ab'.rjust(5, '.')", "'ab'.center(5)", "'abc'.center(6, '*')", "'ab'.center(1)", "'a'.ljust(3, 'xy')", "'a\\tb'.expandtabs()",
        "'a\\tb\\n\\tc'.expandtabs(4)", "'ab cd-ef it\\'s'.title()", "'Ab'.swapcase()", "'ẞß'.casefold()", "'ab cd'.capitalize()", "'AB'.lower()", "'straße'.upper()", "'ab'.upper()", "'A b'.istitle()", "'A B'.istitle()",
        "'12'.isdigit()", "'1a'.isdigit()", "''.isdigit()", "'12'.isdecimal()", "'12'.isnumeric()", "'ab'.isalpha()", "'a1'.isalnum()", "'ab'.islower()", "'aB'.islower()", "'AB'.isupper()", "' '.isspace()", "''.isspace()",
        "'a_1'.isidentifier()", "'1a'.isidentifier()", "'a\\n'.isprintable()", "'é'.isprintable()", "'é'.isascii()", "'a'.nope()", "'a{b}'.format_map({'b': 1})",
        "{'a': 1}.get('a')", "{'a': 1}.get('b')", "{'a': 1}.get('b', 2)", "{'a': 1}.keys() | list", "{'a': 1}.values() | list", "{'a': 1}.items() | list", "{'a': 1}.copy()", "{'a': 1}.pop('a')", "{'a': 1}.update({})",
        "{'a': 1}.nope()", "[1, 2, 1].count(1)", "[1, 2, 1].index(2)", "[1, 2, 1].index(1, 1)", "[1].index(3)", "[1].copy()", "[1].append(2)", "[1].pop()", "(1, 2).index(2)", "(1, 1).count(1)", "(1.0).is_integer()",
        "(1.5).is_integer()", "messages[0].get('content', '')", "messages[0].keys() | list", "'a,b'.split(',')[1]", "'a\\nb'.split('\\n') | join('|')", "'ab'.encode()[0]",
    )
]

FILTERS = [
    "{{ %s }}" % expression
    for expression in (
        "'a' | upper", "'AB c' | lower", "'ab cd-ef (gh' | title", "'aB' | capitalize", "' a ' | trim", "'xxaxx' | trim('x')", "'a' | string", "1e-7 | string", "none | string", "nope | string", "[1.0, 'a'] | string",
        "-1.5 | abs", "1 | abs", "2.567 | round(1)", "2.5 | round", "3.5 | round", "-2.5 | round", "2.5 | round(method='ceil')", "2.5 | round(0, 'floor')", "5 | round", "1234 | round(-2)", "'12' | int", "'x' | int", "'x' | int(7)",
        "'1.5' | int", "' 12 ' | int", "'0x1f' | int(base=16)", "'ff' | int(0, 16)", "'1_000' | int", "none | int", "nope | int", "true | int", "3.9 | int", "-3.9 | int", "'1.5' | float", "'x' | float", "'x' | float(2.5)",
        "'1e3' | float", "none | float", "3 | float", "'nan' | float", "[] | int", "'a' | default('b')", "nope | default('b')", "nope | d", "'' | default('b')", "'' | default('b', true)", "'' | default('b', boolean=true)",
        "'' | default('b', boolean=false)", "nope | default(default_value='x')", "none | default('b')", "none | default('b', true)", "nope.x | default('b')", "messages[0].nope | default('b')", "[1, 2] | first", "[] | first", "'abc' | first",
        "'abc' | last", "[1, 2] | last", "[] | last", "[3, 1, 2] | max", "[3, 1, 2] | min", "['b', 'A'] | max", "['b', 'A'] | min(case_sensitive=true)", "['b', 'A'] | min(true)", "[] | max", "[{'a': 2}, {'a': 1}] | min(attribute='a')",
        "['b', 'A', 'c'] | sort", "['b', 'A', 'c'] | sort(true)", "['b', 'A', 'c'] | sort(reverse=true)", "['b', 'A', 'c'] | sort(false, true)", "['b', 'A', 'c'] | sort(case_sensitive=true)", "[{'a': 2}, {'a': 1}] | sort(attribute='a')",
        "[{'a': 2, 'b': 1}, {'a': 1, 'b': 2}] | sort(attribute='a,b') | map(attribute='b') | list", "{'b': 1, 'a': 2} | dictsort", "{'b': 1, 'a': 2} | dictsort(false, 'value')", "{'b': 1, 'A': 2} | dictsort(true)",
        "{'b': 1, 'a': 2} | dictsort(reverse=true)", "{'b': 1, 'a': 2} | items | list", "nope | items | list", "[1] | items | list", "{'a': 1} | list", "'abc' | list", "(1, 2) | list", "none | list", "1 | list", "'abc' | length", "[1] | length", "{} | count",
        "none | length", "1 | length", "'abc' | reverse", "[1, 2] | reverse | list", "[1, 1, 2] | unique | list", "['a', 'A'] | unique | list", "['a', 'A'] | unique(true) | list", "[{'a': 1}, {'a': 1}] | unique(attribute='a') | list",
        "[1, 2, 3] | sum", "[{'a': 1}, {'a': 2}] | sum(attribute='a')", "[1.5] | sum(start=1)", "[] | sum", "[1, 2] | join", "['a', 1.0, none] | join(', ')", "[{'a': 1}, {'a': 2}] | join(',', 'a')", "[{'a': {'b': 1}}] | join(attribute='a.b')",
        "'abc' | join('-')", "nope | join", "['a'] | join(d='-')", "[1, 2, 3] | batch(2) | list", "[1, 2, 3] | batch(2, 'x') | list", "[1, 2, 3] | slice(2) | list", "[1, 2, 3] | slice(2, 'x') | list", "'aaa' | replace('a', 'b')",
        "'aaa' | replace('a', 'b', 1)", "'a1' | replace(1, 2)", "1.5 | replace('.', ',')", "'a b c' | wordcount", "'it\\'s, é_1!' | wordcount", "'' | wordcount", "'hello world foo' | truncate(10)", "'hello world foo' | truncate(9, true)",
        "'hello world foo bar' | truncate(11, false, '!')", "'hello world foo' | truncate(9, leeway=0)", "'hello world foo' | truncate(length=9, killwords=true, end='..', leeway=0)", "'hello' | truncate(2)", "'hello wor' | truncate(5)",
        "'a b/c?d=é&e' | urlencode", "{'a b': 'c/d', 'e': 1} | urlencode", "[('a', 'b c')] | urlencode", "1 | urlencode", "'<b>x</b> <!-- c --> &lt;y&gt;\\n z' | striptags", "'a<b>&\"\\'/' | escape", "'a<b' | e", "'a<b' | forceescape", "'a<b' | safe",
        "{'class': 'a<b', 'id': none, 'n': 1} | xmlattr", "{'a': 1} | xmlattr(false)", "{'a b': 1} | xmlattr", "{} | xmlattr", "'a\\nb\\n\\nc' | indent", "'a\\nb' | indent(2, true)", "'a\\n\\nb' | indent(width=2, blank=true)", "'a\\nb\\n' | indent(1)",
        "'a\\nb' | indent('> ')", "'' | indent(2, true)", "'a\\nb' | indent(first=true, width=1)", "'ab' | center(6)", "'ab' | center(width=5)", "1 | filesizeformat", "1000 | filesizeformat", "1536 | filesizeformat(true)", "123456789 | filesizeformat(binary=true)",
        "0 | filesizeformat", "{'b': [1, 'a'], 'a': none} | pprint", "'a' | pprint", "{'a': 1} | attr('a')", "[{'a': 1}, {'a': 2}] | map(attribute='a') | list", "[{}] | map(attribute='a', default=5) | list", "['a', 'b'] | map('upper') | list",
        "[' a '] | map('trim') | list", "['a'] | map('replace', 'a', 'b') | list", "[1, 2, 3] | select('odd') | list", "[1, 2, 3] | reject('odd') | list", "[0, 1, ''] | select | list", "[1, 2] | select('gt', 1) | list",
        "messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(';')", "messages | rejectattr('role', 'eq', 'user') | list", "messages | selectattr('nope', 'defined') | list", "messages | selectattr('role') | list | length",
        "messages | selectattr('role', 'in', ['user']) | list | length", "[{'a': 1, 'b': 1}, {'a': 2, 'b': 2}, {'a': 1, 'b': 3}] | groupby('a') | map('last') | map('length') | list", "'a' | nope", "['a', none] | map('default', 'x', true) | list",
        "'abc' | upper | lower | title", "('a' | upper) ~ 'b' | upper", "'a,b' | replace(',', ' ') | wordcount", "[[1, 2], [3]] | sum(start=[])", "'x' | list | length", "range(5) | select('even') | list", "[1, none, 2] | select | map('string') | join('')",
    )
]

TESTS = [
    "{{ %s }}" % expression
    for expression in (
        "3 is odd", "4 is even", "3 is number", "true is number", "3 is integer", "true is integer", "3.5 is float", "3 is float", "'a' is lower", "'A' is upper", "[1] is sequence", "{} is sequence", "'a' is sequence", "1 is sequence",
        "(1,) is sequence", "none is sequence", "nope is sequence", "range(2) is sequence", "true is boolean", "1 is boolean", "'x' is in ['x']", "1 is in [2]", "3 is divisibleby 3", "4 is divisibleby(3)", "3 is divisibleby 0", "none is undefined", "nope is undefined",
        "1 is true", "true is true", "false is false", "none is none", "nope is none", "'a' is string", "1 is string", "{} is mapping", "[] is mapping", "'a' is iterable", "none is iterable", "{} is iterable", "1 is iterable", "nope is iterable", "1 is eq 1",
        "1 is equalto(1.0)", "1 is ne 2", "1 is lt 2", "2 is gt 1", "1 is le 1", "1 is ge 2", "1 is lessthan 2", "1 is greaterthan 2", "'a' is sameas 'a'", "none is sameas none", "true is sameas 1", "'upper' is filter", "'nope' is filter", "'odd' is test",
        "range is callable", "'a' is callable", "'a' is not none", "not 'a' is none", "'a' is nope", "'a' is escaped", "3 is not odd and 4 is even", "messages is iterable and messages is not string", "messages[0] is mapping",
        "2 % 2 is odd", "'a' ~ 'b' is defined",
    )
]

STATEMENTS = [
    "{% set x = 1 %}{{ x }}{% set y, z = 1, 2 %}{{ y }}{{ z }}", "{% set x %}a{{ 1e-7 }}{% endset %}{{ x }}|{{ x | length }}", "{% set x | upper %}abc{% endset %}{{ x }}", "{% filter upper %}abc{% endfilter %}",
    "{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}{{ ns.a }}", "{% set ns = namespace(a=1, b='x') %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}", "{% set ns = namespace({'a': 1}) %}{{ ns.a }}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "{% set x = {} %}{% set x.a = 1 %}", "{% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for x in [1, 2, 3] %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{{ loop.depth }} {% endfor %}", "{% for x in [] %}a{% else %}b{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in 1 %}{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}", "{% for x in messages or none %}{{ x.role }}{% endfor %}", "{{ none | join }}", "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}",
    "{% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}", "{% for x in [1, 2, 3] if x > 1 %}{{ x }}{% endfor %}", "{% for x in [1, 2, 3] if x % 2 %}{{ x }}{% endfor %}", "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "{% for m in [1, [2, [3]]] recursive %}{% if m is iterable %}({{ loop(m) }}){% else %}{{ m }}{% endif %}{% endfor %}", "{% for c in 'aé' %}{{ c }}.{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{% for i in range(3) %}{{ i }}{% endfor %}{{ range(5, 0, -2) | list }}{{ range(2, 4) | list }}", "{% for g, i in [{'a': 1}, {'a': 2}, {'a': 1}] | groupby('a') %}{{ g }}{{ i | length }}{% endfor %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {{ m(1, 2, 3) }} {{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}",
    "{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call(x) m() %}{{ x }}y{% endcall %}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro m() %}a{% endmacro %}{{ (m() ~ 'b') | upper }}{{ m() + 'c' }}{{ m() == 'a' }}",
    "{% macro m(x) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, y=3) }}", "{% if 1 %}a{% elif 2 %}b{% else %}c{% endif %}{% if nope %}a{% elif '' %}b{% else %}c{% endif %}", "{% if nope is defined and nope.x %}a{% else %}b{% endif %}",
    "{% if messages and messages[0].role == 'user' and not messages[0].tool_calls %}a{% endif %}", "  {%- if true %} x {% endif -%}  y", "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n{%- if true %}\n  b\n{%- endif %}\n", "{#- c -#} x {# y #}\n", "x\n\n", "x",
    "{%+ if true %}  a{% endif %}", "{% raw %}{{ x ~ y }}{% x %}{% endraw %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}", "{{ cycler() }}",
    "{% set j = joiner(',') %}{{ j() }}a{{ j() }}b", "{% set j = joiner() %}{{ j() }}a{{ j() }}b", "{% set j = joiner(sep='-') %}{{ j() }}a{{ j() }}b", "{{ dict(a=1) }}{{ dict({'a': 1}, b=2) }}{{ dict([('a', 1)]) }}{{ dict() }}", "{{ {'a': 1, 'a': 2} }}",
    "{{ raise_exception('no') }}", "{{ raise_exception(1) }}", "{{ debug() }}", "{% set x = 'a' %}{{ x ~ 'b' if x else 'c' }}", "{{ 'a' ~ ('b' if false else 'c') ~ 'd' }}", "{{ messages[0]['content'] ~ '!' }}", "{{ [1, 2][0] ~ {'a': 3}['a'] }}",
    "{% set a = [1, 2, 3] %}{{ a[a | length - 1] }}{{ a[1:a | length] }}", "{{ loop }}", "{% generation %}a{% endgeneration %}", "{%- generation -%} a {%- endgeneration -%}", "{% do 1 %}", "{% include 'x' %}", "{% nope %}", "{% if %}", "{{ }}", "{{ 'a }}",
    "{{ 'a\\\nb' }}", "{{ 'tab\\there \\x41 \\u00e9 \\' \\\\' }}", "{{ \"a\\\"b\" }}", "{{ '{{' }} {{ '}}' }} {{ '%}' }}", "{{ x.y.z if x else 'n' }}", "{{ {'a-b': 1}['a-b'] }}", "{{ ('a', 'b')[0] }}", "{{ [1, 2, 3][-1:][0] }}", "{{ {'a': [1, {'b': 2}]}.a[1].b }}",
    "{{ namespace }}"[:0] + "{{ 1 if 1 else 2 }}", "{{ (1, 2) == [1, 2] }}", "{{ '1' == 1 }}", "{{ none == false }}", "{{ '' == none }}", "{{ 'a' is string and 'b' or 'c' }}", "{{ 1 in [1, 2] and 2 not in [1] }}", "{{ not 1 in [2] }}",
]

CONSTRUCTS = VALUES + TOJSON + METHODS + FILTERS + TESTS + STATEMENTS
