//! What of a text touches more than its own place on a screen.

/// Whether `character` could move the cursor, colour the screen, hide or reorder other text: control characters (C0, DEL,
/// C1), line separators, bidirectional controls (Unicode Technical Report 36) and invisible ones.
pub fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}
