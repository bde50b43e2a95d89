"""The phrases that models say around a prompt, or instead of one: no description of a picture has them."""

import re

_NOUN = (
    r"(?:prompts?|versions?|descriptions?|rewrites?|rewriting|continuations?|alternatives?|variations?|variants?|"
    r"results?|outputs?|answers?|responses?|paragraphs?|segments?|text|expansion|"
    r"prompt-?\w*|beschreibung|fassung|ergebnis|antwort|invite|versión|descripción|versione|descrizione|versão|"
    r"descrição|"
    r"промпт\w*|описани\w*|вариант\w*|提示词?|提示語|描述|版本|プロンプト|프롬프트)"
)
_ADJECTIVES = (
    r"(?:(?:an?|the|your|my|this|final|enhanced|improved|expanded|extended|enriched|detailed|richer|refined|revised|"
    r"rewritten|optimi[sz]ed|updated|polished|cinematic|vivid|new|next|full|complete|better|alternative|continued|"
    r"text-to-video|video|scene|image|ai|llm)[\s_-]+)*"
)
_FLAGS = re.IGNORECASE

INTERJECTION = re.compile(
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|all right|got it|understood|no problem|"
    r"here you go|there you go|here it is|here you are|"
    r"great(?: idea| prompt| choice)?|happy to help|gladly|definitely|"
    r"natürlich|gerne?|klar|selbstverständlich|bien sûr|certainement|d'accord|claro(?: que sí)?|por supuesto|"
    r"certo|certamente|com certeza|конечно|хорошо|当然(?:可以)?|好的|もちろん(?:です)?|はい|물론(?:입니다|이죠)?|네)"
    r"\s*(?:[!.:。！：]+\s*|[,，、]\s*(?=here|i'?|hier|voici|aquí|ecco|aqui|вот|以下|这是|こちら|여기)|\n+\s*)",
    _FLAGS,
)
"""A word of agreement at the start, with the mark or the line break after it."""

INTRODUCTION = re.compile(
    r"(?:here(?:'|’)?s|here (?:is|are|you go|it is)|below (?:is|are)|this is|the following is|"
    r"i(?:'|’)?(?:ve| have) (?:written|created|crafted|enhanced|expanded|rewritten|prepared|improved|enriched)|"
    r"hier (?:ist|sind|kommt)|voici|aquí (?:está|tienes|tiene)|ecco|aqui está|вот|以下是|这是|下面是|"
    r"こちらが|以下は|여기)"
    rf"(?:(?![:：\n]).){{0,160}}?{_NOUN}(?:(?![:：\n]).){{0,120}}?(?:[:：]\s*|\n+)",
    _FLAGS,
)
"""A clause that announces the prompt, up to its colon or the end of its line."""

LABEL = re.compile(rf"[\[(*_#\s]*{_ADJECTIVES}{_NOUN}(?:\s?\([^()\n]{{0,40}}\))?[\])*_\s]*[:：][*_\s]*", _FLAGS)
"""A name for the prompt, and a colon."""

NOTES = re.compile(
    r"\n[ \t>*_#(\[-]*(?:notes?|explanations?|rationale|reasoning|key (?:changes|improvements|elements|enhancements)|"
    r"changes(?: made)?|what (?:i )?changed|why (?:this|it) works|word count|\(?(?:approx\w*\.? )?\d+ words|tips?|"
    r"anmerkung|hinweis|remarque|nota|примечание|注意|注|説明)\b[^\n]{0,40}(?:[:：*_)\]]|$).*\Z",
    _FLAGS | re.DOTALL,
)
"""A last part about the prompt, from its own line to the end."""

CLOSING = re.compile(
    r"(?:(?<=[.!?…\"”'’`*)\]}])|(?<=\n))\s*(?:[-*_]{3,40}\s*)?\(?(?:please )?(?:let me know|feel free|"
    r"would you like|do you want me|"
    r"i hope (?:this|that|it|you)|hope (?:this|that|it) helps|if you(?:'|’)?(?:d| would| want| need| prefer)\b|"
    r"shall i|"
    r"should i|is there anything|want me to|enjoy!|happy (?:creating|generating)|"
    r"lass(?:en sie)? mich wissen|n'hésitez pas|avísame|fammi sapere|дайте знать|如果您|如需|希望)[^\n]*\Z",
    _FLAGS,
)
"""A last sentence that speaks to the reader."""

_HELP = (
    r"(?:assist|help|create|generate|provide|fulfil+|comply|write|produce|continue|do (?:that|this)|process|engage|"
    r"support|answer|respond|enhance|rewrite|expand|describe|depict|discuss|proceed|make|offer|accommodate|complete)"
)
REFUSAL = re.compile(
    r"(?:(?:hmm|oh|well|no|unfortunately|regrettably)[,.!]? +)?(?:"
    r"(?:i(?:'|’)?m|i am|we(?:'|’)?re|we are) (?:\w+ ){0,2}(?:sorry|unable|not able|not comfortable|not allowed|"
    r"not permitted|not going to|an? (?:ai|language model|large language|assistant)|afraid (?:i|we|that|this)|"
    r"afraid,)\b|"
    r"(?:i|we)(?: \w+ly)? (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|will not|could(?:n(?:'|’)?t| not))"
    rf"(?:[.,!;]|\Z| (?:\w+ )?{_HELP}\b(?! but))|"
    r"(?:i|we) (?:must |have to |need to )?(?:\w+ly )?(?:decline|refuse|apologi[sz]e)\b|"
    r"i do(?:n(?:'|’)?t| not) (?:feel comfortable|think i (?:can|should))|"
    r"sorry\b\s*(?:[,.!:;–—-]|but|i\b|we\b|that|about)|(?:my )?apologies\b|as an? (?:ai|(?:large )?language)\b|"
    r"(?:this|that|your|the) (?:request|prompt|content|idea|topic)\b[^.\n]{0,60}\b(?:violat|against|inappropriate|"
    r"not (?:something|allowed|appropriate|permitted)|cannot|can(?:'|’)?t|harmful|unsafe|prohibited)|"
    r"(?:it(?:'|’)?s|it is|that(?:'|’)?s) (?:not appropriate|against|inappropriate)|request (?:denied|refused|"
    r"blocked)|"
    r"(?:es )?tut mir (?:sehr )?leid|entschuldigung|ich (?:kann|darf|möchte|werde) (?:\w+ ){0,3}(?:nicht|keine)|"
    r"leider (?:kann|darf) ich|(?:je suis |je (?:me )?sens )?(?:vraiment )?désolée?(?:[,.!]| mais| je)|"
    r"je ne (?:peux|suis) pas|"
    r"je regrette|lo siento|lo lamento|no puedo|disculpa|mi dispiace|non posso|desculpe|sinto muito|"
    r"lamento(?:[,.!]| mas| pero| que| no)|não posso|het spijt me|ik kan (?:\w+ ){0,3}niet|przepraszam|przykro mi|"
    r"nie mogę|извините|простите|прошу прощения|к сожалению|я не могу|мне жаль|üzgünüm|maalesef|"
    r"عذر|آسف|لا أستطيع|لا يمكنني|מצטער|क्षमा|माफ़|xin lỗi|"
    r"(?:很|非常|十分)?(?:抱歉|对不起|對不起)|很遗憾|我(?:无法|不能|無法)|申し訳|すみません|ごめん|お応え|죄송|미안)",
    _FLAGS,
)
"""The beginning of a refusal, in the languages that models refuse in."""

REFUSAL_ANYWHERE = re.compile(
    r"\b(?:i(?:'|’)?m sorry,? but (?:i|we)\b|as an ai(?: language)? (?:model|assistant)|"
    r"i (?:can(?:'|’)?t|cannot|won(?:'|’)?t|am unable to|am not able to) (?:assist|help|comply|fulfil+)\b(?! but)|"
    r"i (?:can(?:'|’)?t|cannot|am unable to|am not able to) (?:create|generate|provide|continue|write|produce)\b)",
    _FLAGS,
)

CHAT = re.compile(
    r"(?:(?:could|can|would) you (?:please )?(?:clarify|provide|share|specify|tell|give|explain)|"
    r"please (?:provide|share|give|clarify|specify|tell)|what (?:would|do|can|should) (?:you|i)\b|how can i\b|"
    r"it (?:looks|seems|appears) (?:like|that|as)? ?(?:you|there|the prompt|your)|you (?:haven|did|have)(?:'|"
    r"’)?n?(?:t| not) |"
    r"(?:okay|ok|alright|hmm|well|so)[,.]? (?:so |let|the user|i |we |first)|(?:let me|let(?:'|’)?s) (?:think|"
    r"start|see|write|craft|create|"
    r"break|analy|make|try|consider|begin|first|enhance|expand)|(?:the|this) user (?:wants|asks?|is asking|"
    r"wrote|gave|"
    r"provide[sd]?|has|would|request(?:s|ed)?|needs|said|says|prompt|input|idea)\b|user (?:wants|asks|request|"
    r"provide|gave|said)|"
    r"(?:i|we) (?:need|should|have|must|will|want|can|am going|are going)(?: to)? (?:to )?(?:\w+ )?"
    r"(?:produce|write|create|enhance|expand|describe|generate|rewrite|craft|provide|help)\b|"
    r"(?:i|we)(?:'|’)ll (?:\w+ )?(?:produce|write|create|enhance|expand|describe|generate|rewrite|craft|provide|"
    r"help|do)\b|"
    r"thank(?:s| you) for|hello[!,.]|hi[!,.] |(?:n/?a|none|null|nil|undefined|nan|unknown|error|empty|todo|tbd|"
    r"\[object object\]|true|false|ok|okay|sure|yes|no|done|prompt|text|string|\{\}|\[\])[\s.!]*\Z)",
    _FLAGS,
)
"""The beginning of what is said to a reader, or thought aloud, and answers that hold nothing."""

ABOUT_THE_PROMPT = re.compile(
    r"\b(?:your|this|my|the original|the given|enhanced|improved|revised|rewritten|expanded|refined|the following|"
    r"text-to-video|the above|user(?:'|’)?s) (?:\w+ ){0,2}prompts?\b|\bhere(?:'|’)?s (?:the|your|"
    r"an?) (?:\w+ ){0,4}(?:prompt|version|description)\b",
    _FLAGS,
)
"""What speaks about a prompt is no part of one."""

REFUSAL_ELSEWHERE = re.compile(
    r"(?:(?:i|we) (?:won(?:'|’)?t|will not|would not|wouldn(?:'|’)?t) be able\b|i(?:'|’)?d (?:rather|prefer) not\b|"
    r"i(?:'|’)?m (?:going|gonna) (?:to )?have to (?:pass|decline|refuse|stop)|"
    r"(?:i(?:'|’)?m|i am) (?:programmed|designed|just an? (?:ai|assistant|language|program))\b|"
    r"(?:that(?:'|’)?s|this is) (?:not )?something (?:i|we) (?:can(?:'|’)?t|cannot|can|won|don)|"
    r"(?:no(?:pe)?|sorry)?[,.]? ?can(?:'|’)?t (?:do|help|assist)\b|unable to (?:comply|assist|help|fulfil+|process|"
    r"generate|provide)|my (?:guidelines|policy|policies|programming)\b|i do(?:n(?:'|’)?t| not) feel (?:right|"
    r"good|comfortable)|(?:let(?:'|’)?s|can we|could we|perhaps we) (?:talk about|choose|discuss|pick|try) "
    r"(?:something|another|a different)|(?:content|usage|safety) polic(?:y|ies)\b|"
    r"please (?:consult|review|refer|see|try|rephrase|contact)\b|"
    r"(?:internal )?(?:server |unknown )?error(?::|\W*\Z)|rate limit\b|too many requests|bad gateway|"
    r"service unavailable|"
    r"(?:desculpa|desculpe-me|não (?:consigo|posso))\b|(?:jag|jeg|ég) (?:kan|får) (?:\w+ ){0,3}(?:inte|ikke)|"
    r"beklager\b|tyvärr\b|förlåt\b|valitettavasti\b|(?:maaf|saya (?:tidak|tak) (?:dapat|bisa))\b|"
    r"bu konuda\b|yardımcı olam|ขออภัย|ขอโทษ|이 요청은|요청하신 내용|mohon maaf|bohužel\b|sajnos\b|din păcate|"
    r"لا يمكنني|לא אוכל|λυπάμαι|на жаль|вибачте)",
    _FLAGS,
)
"""More beginnings of refusals and of messages of servers."""

ADDRESS = re.compile(
    r"(?:(?:love|like) (?:it|this|that)[!.]|what an? (?:\w+ ){0,3}(?:idea|prompt|concept|scene|vision)[!.]|"
    r"as (?:requested|you (?:asked|wished|wanted))\b|how about (?:this|something)|"
    r"(?:try|check out|consider|use) this\b\W|"
    r"(?:sure|yes|yep|absolutely|certainly|definitely|of course)(?: thing)?(?:[!.,:]| ?[—–]| - )|"
    r"here(?:'|’)?s (?:an?|the|your|my) (?:\w+ )?(?:one|take|go)\b|"
    r"thought for \d|\*?thinks about\b|\(thinking\)|(?:assistant|model|ai|bot|human|user):|assistant (?=(?-i:[A-Z]))|"
    r"(?:description|prompt|output|response|answer)(?: ?[—–=]|(?= (?-i:[A-Z])))|sources?:)",
    _FLAGS,
)
"""The beginning of what is said to a reader and is not known to end where the prompt begins."""

AFTERWORD = re.compile(
    r"(?:\A|(?<=[.!?…\"”'’`*)\]}])\s+)\W{0,4}(?:(?:negative prompts?|user|human|assistant|aspect ratio|word count)\s?:|"
    r"this (?:version|prompt|rewrite|revision|enhancement)\b|"
    r"i(?:'|’)?(?:ve)? (?:kept|added|changed|included|expanded|preserved|enhanced) (?:the|your|more|some|on) "
    r"(?:original|subject|core|details?|prompt|idea|lighting|wording|style)\b|"
    r"(?:i )?hope (?:you like|this (?:helps|works)|it helps)\b|anything else\b|enjoy\b\W*\Z|"
    r"(?:this is|that(?:'|’)?s|approx\w*\.?|~)? ?"
    r"\d{1,4} words\W*\Z|let me know\b|feel free\b|source:|--(?:ar|v|s|q|no|niji|seed|style|stylize|aspect)\s|"
    r"#[^\W\d]\w*(?:\s#\w+)*\s*\Z)",
    _FLAGS,
)
"""Behind a sentence or alone, what is about the prompt and no part of it."""
