"""The grammar of shell scripts as far as launch scripts need it: statements, words, quotes, expansions, comments.

Text becomes statements with their lines; nothing is expanded and nothing is ever run. `shlex` of the standard library
cannot be used: it forgets which quotes a `$` stood in and on which line. What is not understood becomes an `Opaque`
part with its source, and it is for others to say what follows from that.
"""

from __future__ import annotations

import re

from rltrain_api.convert.syntax import (
    ARITHMETIC,
    Arithmetic,
    Array,
    Opaque,
    Part,
    Redirection,
    ScriptError,
    Statement,
    Text,
    Variable,
    Word,
)

_BLANKS = " \t"
_OPERATORS = ("&&", "||", ";;", ";", "|&", "|", "&", "(", ")", "\n")
_ENDS_WORD = " \t\n;&|<>()"
_SPECIAL = "@*#?$!-0123456789"
_BEFORE_COMMANDS = ("if", "elif", "while", "until", "for", "then", "do", "else", "!")
_GO_ON = ("&&", "||", "|", "|&")  # a line that ends in one of these goes on in the next
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REDIRECTION = re.compile(r"(\d*)(&>>|&>|<<<|<<-?|>>|>&|<&|>\||<|>)")
# Inside `${…}`: a name, perhaps an index, and what is done with it.
_BRACED = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*|[@*0-9])(?P<index>\[[^\]]*\])?(?P<operator>:?[-=?+])?")
_TRAILING_BLANKS = re.compile(r"\\[ \t]+(#.*)?$", re.M)
MAX_NESTING = 32


def split_script(text: str, first_line: int = 1) -> list[Statement]:
    """The statements of a script, in order; those without words are left out, but for the parentheses.

    Raises:
        ScriptError: a quote or bracket is not closed.
    """
    return _Scanner(text.replace("\r\n", "\n"), first_line).statements()


class _Scanner:
    """Reads a script character by character."""

    def __init__(self, text: str, line: int, depth: int = 0) -> None:
        self._text = text
        self._at = 0
        self._line = line
        self._depth = depth
        self._continues = False  # the line before ended in a backslash
        self._here_documents: list[tuple[str, bool]] = []  # delimiters whose text begins after the next newline
        if depth > MAX_NESTING:
            raise ScriptError(line, f"expansions are nested more than {MAX_NESTING} levels deep")

    def statements(self) -> list[Statement]:
        found: list[Statement] = []
        statement = Statement(self._line)
        while self._at < len(self._text):
            if self._skip_between_words(statement):
                continue
            if self._arithmetic_command(statement):
                continue
            operator = self._operator()
            if operator is None:
                self._add(statement)
            else:
                statement = self._finish(found, statement, operator)
                self._continues = False
        self._finish(found, statement, "\n")
        return found

    def _skip_between_words(self, statement: Statement) -> bool:
        """Step over a blank, a continuation or a comment, if there is one; note where one breaks a command off."""
        character = self._text[self._at]
        if self._text.startswith("\\\n", self._at):
            self._advance(2)
            self._continues = True
        elif character in _BLANKS:
            self._advance(1)
        elif character == "#":
            if self._continues and statement.words:
                statement.broken_off = self._line
            self._skip_comment()
        elif character == "\\" and _TRAILING_BLANKS.match(self._text, self._at):
            statement.broken_off = self._line  # meant to continue, and does not
            self._skip_comment()
        else:
            return False
        return True

    def _arithmetic_command(self, statement: Statement) -> bool:
        """Step over `((…))` where a command may begin; it becomes a word of its own."""
        if not self._text.startswith("((", self._at) or not _may_begin_command(statement):
            return False
        statement.lines.append(self._line)
        statement.words.append((Text(ARITHMETIC, False),))
        self._bracketed("(", ")")
        return True

    def _add(self, statement: Statement) -> None:
        """One more word or redirection."""
        if not statement.words and not statement.redirections:
            statement.line = self._line
        redirection = _REDIRECTION.match(self._text, self._at)
        if redirection is not None:
            self._redirect(statement, redirection)
        else:
            self._continues = False
            statement.lines.append(self._line)
            statement.words.append(self._word())

    def _finish(self, found: list[Statement], statement: Statement, operator: str) -> Statement:
        if statement.words or statement.redirections:
            found.append(statement)
        if operator in "()":
            found.append(Statement(self._line, operator))
        if operator == "\n" and not statement.words and statement.joined in _GO_ON:
            return Statement(self._line, statement.joined)
        return Statement(self._line, "" if operator in ("\n", "(", ")") else operator)

    def _operator(self) -> str | None:
        for operator in _OPERATORS:
            if self._text.startswith(operator, self._at):
                if operator == "&" and self._text.startswith("&>", self._at):
                    return None
                self._advance(len(operator))
                if operator == "\n":
                    self._skip_here_documents()
                return operator
        return None

    def _advance(self, count: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _skip_comment(self) -> None:
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end

    def _redirect(self, statement: Statement, match: re.Match[str]) -> None:
        self._advance(len(match.group()))
        while self._at < len(self._text) and self._text[self._at] in _BLANKS:
            self._advance(1)
        target = self._word()
        statement.redirections.append(Redirection(match[2], target))
        if match[2] in ("<<", "<<-"):
            delimiter = "".join(part.text for part in target if isinstance(part, Text))
            self._here_documents.append((delimiter, match[2] == "<<-"))

    def _skip_here_documents(self) -> None:
        for delimiter, indented in self._here_documents:
            start = self._line - 1
            while True:
                if self._at >= len(self._text):
                    raise ScriptError(start, f"the here-document <<{delimiter} has no end")
                end = self._text.find("\n", self._at)
                end = len(self._text) if end < 0 else end
                line = self._text[self._at : end]
                self._advance(min(end + 1, len(self._text)) - self._at)
                if (line.lstrip("\t") if indented else line) == delimiter:
                    break
        self._here_documents.clear()

    def _word(self) -> Word:
        """The word that begins here; it ends at a blank or an operator outside of quotes."""
        parts: list[Part] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            if self._text.startswith("\\\n", self._at):
                self._advance(2)
            elif character == "(" and _is_assignment(parts):
                parts.append(self._array())
            elif character in _ENDS_WORD:
                break
            else:
                parts += self._parts(quoted=False)
        return _joined(parts)

    def _parts(self, quoted: bool) -> list[Part]:
        """The next part, or the parts of the next double quotes; inside double quotes, `quoted` is true."""
        character = self._text[self._at]
        if character == "'" and not quoted:
            return [Text(self._single_quoted(), True)]
        if character == '"' and not quoted:
            return self._double_quoted()
        if character == "$":
            return [self._expansion(quoted)]
        if character == "`":
            return [Opaque(self._backquoted())]
        return [self._literal(quoted)]

    def _literal(self, quoted: bool) -> Text:
        character = self._text[self._at]
        if character == "\\" and self._at + 1 < len(self._text):
            following = self._text[self._at + 1]
            keeps_backslash = quoted and following not in '$`"\\'
            self._advance(2)
            return Text(f"\\{following}" if keeps_backslash else following, True)
        self._advance(1)
        return Text(character, quoted)

    def _single_quoted(self) -> str:
        line, end = self._line, self._text.find("'", self._at + 1)
        if end < 0:
            raise ScriptError(line, "the quote ' is not closed")
        content = self._text[self._at + 1 : end]
        self._advance(end + 1 - self._at)
        return content

    def _double_quoted(self) -> list[Part]:
        line = self._line
        self._advance(1)
        parts: list[Part] = [Text("", True)]
        while self._at < len(self._text):
            if self._text.startswith("\\\n", self._at):
                self._advance(2)
            elif self._text[self._at] == '"':
                self._advance(1)
                return parts
            else:
                parts += self._parts(quoted=True)
        raise ScriptError(line, 'the quote " is not closed')

    def _array(self) -> Array:
        line = self._line
        inner = _Scanner(self._bracketed("(", ")"), line, self._depth + 1)
        return Array(tuple(word for statement in inner.statements() for word in statement.words))

    def _expansion(self, quoted: bool) -> Part:
        text, start = self._text, self._at
        if text.startswith("$(", start):
            inner = self._bracketed("(", ")", skip=1)
            if inner.startswith("(") and inner.endswith(")"):
                return Arithmetic(inner[1:-1])
            return Opaque(f"$({inner})")
        if text.startswith("${", start):
            return self._braced(quoted)
        if text.startswith("$'", start) and not quoted:
            self._advance(1)
            source = self._single_quoted()
            return Opaque(f"$'{source}'") if "\\" in source else Text(source, True)
        name = _NAME.match(text, start + 1)
        if name is not None:
            self._advance(1 + len(name.group()))
            return Variable(name.group(), quoted)
        if start + 1 < len(text) and text[start + 1] in _SPECIAL:
            self._advance(2)
            return Variable(text[start + 1], quoted, every=text[start + 1] in "@*")
        self._advance(1)
        return Text("$", quoted)

    def _braced(self, quoted: bool) -> Part:
        line = self._line
        inner = self._bracketed("{", "}", skip=1)
        match = _BRACED.match(inner)
        rest = inner[match.end() :] if match else ""
        if match is None or (rest and not match["operator"]) or match["index"] not in (None, "[@]", "[*]"):
            return Opaque(f"${{{inner}}}")
        argument = _Scanner(rest, line, self._depth + 1).whole(quoted) if match["operator"] else ()
        every = match["index"] is not None or match["name"] in "@*"
        return Variable(match["name"], quoted, match["operator"] or "", argument, every)

    def whole(self, quoted: bool) -> Word:
        """All of the text as one word, blanks included: what stands behind the operator of a `${…}`."""
        parts: list[Part] = []
        while self._at < len(self._text):
            if self._text[self._at] == '"':  # the quotes in `"${X:="…"}"` are quotes of their own
                parts += self._double_quoted()
            else:
                parts += self._parts(quoted)
        return _joined(parts)

    def _backquoted(self) -> str:
        line, end = self._line, self._text.find("`", self._at + 1)
        if end < 0:
            raise ScriptError(line, "the backquote ` is not closed")
        source = self._text[self._at : end + 1]
        self._advance(end + 1 - self._at)
        return source

    def _bracketed(self, opening: str, closing: str, skip: int = 0) -> str:
        """The text between brackets that begin `skip` characters from here; steps behind them."""
        line, depth, at = self._line, 0, self._at + skip
        start = at + 1
        while at < len(self._text):
            character = self._text[at]
            if character == "\\":
                at += 1
            elif character == '"' or (character == "'" and opening == "("):
                at = self._closing_quote(at, character, line)
            elif character == opening:
                depth += 1
            elif character == closing:
                depth -= 1
                if depth == 0:
                    content = self._text[start:at]
                    self._advance(at + 1 - self._at)
                    return content
            at += 1
        raise ScriptError(line, f"the bracket {opening} is not closed")

    def _closing_quote(self, at: int, quote: str, line: int) -> int:
        pattern = re.compile(r'(?:[^"\\]|\\.)*"' if quote == '"' else "[^']*'", re.S)
        match = pattern.match(self._text, at + 1)
        if match is None:
            raise ScriptError(line, f"the quote {quote} is not closed")
        return match.end() - 1


def _may_begin_command(statement: Statement) -> bool:
    return all(statement.plain(index) in _BEFORE_COMMANDS for index in range(len(statement.words)))


def _is_assignment(parts: list[Part]) -> bool:
    """Whether what was read of a word is `NAME=` or `NAME+=`."""
    text = "".join(part.text if isinstance(part, Text) and not part.quoted else "?" for part in parts)
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\+?=", text) is not None


def _joined(parts: list[Part]) -> Word:
    """The parts with neighbouring characters of one kind made one."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text) and part.quoted == last.quoted:
            joined[-1] = Text(last.text + part.text, part.quoted)
        else:
            joined.append(part)
    return tuple(joined)
